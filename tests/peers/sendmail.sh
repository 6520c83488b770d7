#!/usr/bin/env bash
# sendmail.sh - Sendmail 8.17 inside DIR: the second milter host. Relays everything to NEXT_HOP. Needs root.
# Usage:  [VAR=value...] sendmail.sh start|stop|status DIR
# Env:    SMTP_PORT (15025)   NEXT_HOP (127.0.0.1:2500)
#         MILTER=HOST:PORT    INPUT_MAIL_FILTER; MILTER_FLAG T (tempfail when down, default) | R (reject) | none (pass)
#         TLS=1               STARTTLS, and TLS from the first byte on SMTPS_PORT (15465)
#         EXTRA_MC            m4 lines
# Then:   SENDMAIL -Ac -C SUBMIT_CF -f SENDER RECIPIENT: what a local user's `sendmail` is, which submits to the daemon
# Extracted from Debian's sendmail-bin/-cf to $MAILTEE_PEERS_PREFIX/sendmail (conflicts with postfix); needs m4.
source "$(dirname "$0")/lib.sh"
peer_args "$@"; need_root; need m4
X=$PEERS_PREFIX/sendmail/usr; SM=
for f in "$X"/libexec/sendmail/sendmail "$X"/lib/sm.bin/sendmail; do if [ -x "$f" ]; then SM=$f; break; fi; done
[ -n "$SM" ] || die "Sendmail not found; run install.sh mtas"
SMTP_PORT=${SMTP_PORT:-15025}; NEXT_HOP=${NEXT_HOP:-127.0.0.1:2500}; SMTPS_PORT=${SMTPS_PORT:-15465}
case ${MILTER_FLAG:-T} in T) MF=', F=T' ;; R) MF=', F=R' ;; none) MF= ;; *) die "MILTER_FLAG=T|R|none" ;; esac
case $ACTION in
  start)
    already_running; port_free "$SMTP_PORT"; make_traversable; mkdir -p "$DIR/queue"; chmod 700 "$DIR/queue"
    : > "$DIR/local-host-names"; echo 'Connect:127 RELAY' > "$DIR/access"
    { cat <<CF
divert(-1)
define(\`_CF_DIR_', \`$X/share/sendmail/cf/')dnl
include(\`$X/share/sendmail/cf/m4/cf.m4')dnl
divert(0)dnl
OSTYPE(\`linux')dnl
define(\`confCW_FILE', \`-o $DIR/local-host-names')dnl
define(\`confPID_FILE', \`$DIR/sendmail.pid')dnl
define(\`QUEUE_DIR', \`$DIR/queue')dnl
define(\`STATUS_FILE', \`$DIR/statistics')dnl
define(\`ALIAS_FILE', \`')dnl
define(\`confDOMAIN_NAME', \`sendmail.mailtee.test')dnl
define(\`confMAX_MESSAGE_SIZE', \`104857600')dnl
define(\`confTO_IDENT', \`0')dnl
define(\`confREFUSE_LA', \`0')dnl
define(\`confQUEUE_LA', \`10000')dnl
define(\`confDELIVERY_MODE', \`background')dnl
define(\`confMILTER_LOG_LEVEL', \`9')dnl
define(\`confDONT_PROBE_INTERFACES', \`True')dnl
define(\`confDONT_BLAME_SENDMAIL', \`GroupWritableDirPathSafe,GroupReadableKeyFile,TrustStickyBit')dnl
define(\`confBIND_OPTS', \`-DNSRCH -DEFNAMES')dnl
define(\`confSERVICE_SWITCH_FILE', \`$DIR/service.switch')dnl
FEATURE(\`no_default_msa')dnl
FEATURE(\`promiscuous_relay')dnl
FEATURE(\`accept_unresolvable_domains')dnl
FEATURE(\`accept_unqualified_senders')dnl
FEATURE(\`nocanonify')dnl
define(\`RELAY_MAILER_ARGS', \`TCP \$h ${NEXT_HOP##*:}')dnl
define(\`SMART_HOST', \`relay:[${NEXT_HOP%:*}]')dnl
DAEMON_OPTIONS(\`Port=$SMTP_PORT, Addr=$LISTEN_ADDR, Name=MTA')dnl
CF
      [ -z "${MILTER:-}" ] || echo "INPUT_MAIL_FILTER(\`mailtee', \`S=inet:${MILTER##*:}@${MILTER%:*}$MF, T=C:5s;S:10s;R:30s;E:60s')dnl"
      if [ "${TLS:-}" = 1 ]; then
        make_cert "$DIR/tls"; chmod 600 "$DIR/tls/key.pem"
        cat <<CF
define(\`confCACERT_PATH', \`$DIR/tls')dnl
define(\`confCACERT', \`$DIR/tls/ca.pem')dnl
define(\`confSERVER_CERT', \`$DIR/tls/fullchain.pem')dnl
define(\`confSERVER_KEY', \`$DIR/tls/key.pem')dnl
DAEMON_OPTIONS(\`Port=$SMTPS_PORT, Addr=$LISTEN_ADDR, Name=TLSMTA, M=s')dnl
CF
      fi
      [ -z "${EXTRA_MC:-}" ] || printf '%s\n' "$EXTRA_MC"
      echo "MAILER(\`smtp')dnl"
    } > "$DIR/sendmail.mc"
    { cat <<CF
divert(-1)
define(\`_CF_DIR_', \`$X/share/sendmail/cf/')dnl
include(\`$X/share/sendmail/cf/m4/cf.m4')dnl
divert(0)dnl
OSTYPE(\`linux')dnl
define(\`MSP_QUEUE_DIR', \`$DIR/submit-queue')dnl
define(\`confDOMAIN_NAME', \`sendmail.mailtee.test')dnl
define(\`confTO_IDENT', \`0')dnl
define(\`confDELIVERY_MODE', \`interactive')dnl
define(\`confDONT_PROBE_INTERFACES', \`True')dnl
define(\`confBIND_OPTS', \`-DNSRCH -DEFNAMES')dnl
define(\`confSERVICE_SWITCH_FILE', \`$DIR/service.switch')dnl
define(\`RELAY_MAILER_ARGS', \`TCP \$h $SMTP_PORT')dnl
FEATURE(\`msp', \`[$LISTEN_ADDR]')dnl
CF
    } > "$DIR/submit.mc"
    mkdir -p "$DIR/submit-queue"; chown smmsp "$DIR/submit-queue"; chmod 770 "$DIR/submit-queue"
    m4 "$DIR/submit.mc" > "$DIR/submit.cf" 2>>"$DIR/log/m4.out"
    printf 'hosts files\n' > "$DIR/service.switch"
    m4 "$DIR/sendmail.mc" > "$DIR/sendmail.cf" 2>"$DIR/log/m4.out"
    # own UTS namespace: with an undotted host name Sendmail sleeps 60 s at start looking for its domain
    spawn sendmail unshare --uts sh -c 'hostname sendmail.mailtee.test; exec "$0" "$@"' "$SM" -C "$DIR/sendmail.cf" -bD -q10s -X "$DIR/log/traffic" -O LogLevel=9
    wait_port "$LISTEN_ADDR" "$SMTP_PORT" "$DIR/log/sendmail.out"
    echo "sendmail.sh: up"; say_env SMTP="$LISTEN_ADDR:$SMTP_PORT" ${TLS:+SMTPS="$LISTEN_ADDR:$SMTPS_PORT" CA="$DIR/tls/ca.pem"} SENDMAIL="$SM" SUBMIT_CF="$DIR/submit.cf" NEXT_HOP="$NEXT_HOP" TRAFFIC="$DIR/log/traffic" ;;
  stop) stop_all; echo "sendmail.sh: stopped" ;;
  status) status_all ;;
esac
