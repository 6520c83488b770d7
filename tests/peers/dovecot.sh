#!/usr/bin/env bash
# dovecot.sh - a private Dovecot (IMAP POP3 LMTP ManageSieve, each also as TLS from the first byte; auth socket), wholly
# inside DIR. Needs root.
#
# Usage:  [VAR=value...] dovecot.sh start|stop|status DIR
# Env:    PORT_BASE (10100): IMAP=+43 POP3=+10 IMAPS=+93 POP3S=+95 LMTP=+24 LMTPS=+25 SIEVE=+90 SIEVES=+91 IMAP_HAPROXY=+44
#         AUTH=+45; IMAP_PORT IMAPS_PORT ... override one each
#         TLS=1 (default)    STARTTLS and the TLS ports; TLS=0: none of it
#         USERS (10)         user0001@mailtee.test ... with password pass0001 ...; also alice@mailtee.test/alice
#         PLAINTEXT=yes      yes: login without TLS is allowed; no: LOGINDISABLED until STARTTLS, for clients whose address differs
#                    from the server's: Dovecot always trusts its own address, so connect from 127.0.0.2
#         MAX_SESSIONS (4000)  IMAP sessions at once (each is a process)
#         FSYNC (never)      mail_fsync: never|optimized|always
#         MAIL_FORMAT (maildir)  or sdbox, mdbox
#         EXTRA_CONF         text appended to dovecot.conf
# IMAP_HAPROXY expects a PROXY protocol header (v1 or v2); loopback is trusted for it and for IMAP ID x-originating-ip.
# AUTH is an auth-client socket over TCP: for postfix.sh SASL_DOVECOT=inet:127.0.0.1:AUTH_PORT
# Then:   doveadm -c DIR/etc/dovecot.conf mailbox status -u alice@mailtee.test messages '*'
source "$(dirname "$0")/lib.sh"
peer_args "$@"; need_root; need dovecot doveadm openssl
B=${PORT_BASE:-10100}
IMAP_PORT=${IMAP_PORT:-$((B+43))}; POP3_PORT=${POP3_PORT:-$((B+10))}; IMAPS_PORT=${IMAPS_PORT:-$((B+93))}
POP3S_PORT=${POP3S_PORT:-$((B+95))}; LMTP_PORT=${LMTP_PORT:-$((B+24))}
IMAP_HAPROXY_PORT=${IMAP_HAPROXY_PORT:-$((B+44))}; AUTH_PORT=${AUTH_PORT:-$((B+45))}; LMTPS_PORT=${LMTPS_PORT:-$((B+25))}
SIEVE_PORT=${SIEVE_PORT:-$((B+90))}; SIEVES_PORT=${SIEVES_PORT:-$((B+91))}; TLS=${TLS:-1}
USERS=${USERS:-10}; PLAINTEXT=${PLAINTEXT:-yes}; MAX_SESSIONS=${MAX_SESSIONS:-4000}; FSYNC=${FSYNC:-never}
MAIL_FORMAT=${MAIL_FORMAT:-maildir}
MAIL_UID=5000   # numeric on purpose: no system account is made
tls_listener() { # NAME PORT
  [ "$TLS" != 1 ] || printf 'inet_listener %s {\n    port = %s\n    ssl = yes\n  }\n' "$1" "$2"
}

configure() {
  mkdir -p "$DIR/etc" "$DIR/run" "$DIR/state" "$DIR/mail"
  chown $MAIL_UID:$MAIL_UID "$DIR/mail"
  make_cert "$DIR/tls"
  { echo "alice@mailtee.test:{PLAIN}alice"
    local i; for i in $(seq -f %04g 1 "$USERS"); do echo "user$i@mailtee.test:{PLAIN}pass$i"; done
  } > "$DIR/etc/passwd"
  chown root:dovecot "$DIR/etc/passwd"; chmod 640 "$DIR/etc/passwd"
  cat > "$DIR/etc/dovecot.conf" <<CF
base_dir = $DIR/run
state_dir = $DIR/state
instance_name = peer-${DIR##*/}
log_path = $DIR/log/dovecot.log
info_log_path = $DIR/log/dovecot-info.log
protocols = imap pop3 lmtp sieve
listen = $LISTEN_ADDR
$([ "$PLAINTEXT" = yes ] && echo "login_trusted_networks = 127.0.0.0/8")
haproxy_trusted_networks = 127.0.0.0/8
disable_plaintext_auth = $([ "$PLAINTEXT" = yes ] && echo no || echo yes)
auth_mechanisms = plain login cram-md5 scram-sha-256
auth_username_format = %Lu
ssl = $(if [ "$TLS" != 1 ]; then echo no; elif [ "$PLAINTEXT" = yes ]; then echo yes; else echo required; fi)
ssl_cert = <$DIR/tls/fullchain.pem
ssl_key = <$DIR/tls/key.pem
mail_location = $MAIL_FORMAT:$DIR/mail/%u/$MAIL_FORMAT
mail_fsync = $FSYNC
mail_uid = $MAIL_UID
mail_gid = $MAIL_UID
first_valid_uid = 1
first_valid_gid = 1
mail_max_userip_connections = 0
# where inotify is exhausted, others would hear of new mail after half a minute
mailbox_idle_check_interval = 2 secs
default_client_limit = $((MAX_SESSIONS + 1000))
default_vsz_limit = 1024M
recipient_delimiter = +
passdb {
  driver = passwd-file
  args = $DIR/etc/passwd
}
userdb {
  driver = static
  args = uid=$MAIL_UID gid=$MAIL_UID home=$DIR/mail/%u
}
namespace inbox {
  inbox = yes
  separator = /
  mailbox Drafts {
    auto = subscribe
    special_use = \Drafts
  }
  mailbox Sent {
    auto = subscribe
    special_use = \Sent
  }
  mailbox Trash {
    auto = subscribe
    special_use = \Trash
  }
  mailbox Junk {
    auto = subscribe
    special_use = \Junk
  }
  mailbox Archive {
    auto = subscribe
    special_use = \Archive
  }
}
service imap-login {
  service_count = 0
  process_min_avail = 1
  client_limit = $((MAX_SESSIONS + 500))
  inet_listener imap {
    port = $IMAP_PORT
  }
  $(tls_listener imaps "$IMAPS_PORT")
  inet_listener imap_haproxy {
    port = $IMAP_HAPROXY_PORT
    haproxy = yes
  }
}
service pop3-login {
  service_count = 0
  client_limit = $((MAX_SESSIONS + 500))
  inet_listener pop3 {
    port = $POP3_PORT
  }
  $(tls_listener pop3s "$POP3S_PORT")
}
service imap {
  process_limit = $MAX_SESSIONS
}
service pop3 {
  process_limit = $MAX_SESSIONS
}
service lmtp {
  inet_listener lmtp {
    port = $LMTP_PORT
  }
  $(tls_listener lmtps "$LMTPS_PORT")
}
service managesieve-login {
  inet_listener sieve {
    port = $SIEVE_PORT
  }
  $(tls_listener sieves "$SIEVES_PORT")
}
service auth {
  client_limit = $((MAX_SESSIONS * 2 + 2000))
  inet_listener {
    port = $AUTH_PORT
  }
}
service anvil {
  client_limit = $((MAX_SESSIONS * 2 + 2000))
}
service stats {
  client_limit = $((MAX_SESSIONS * 2 + 2000))
}
protocol lmtp {
  postmaster_address = postmaster@mailtee.test
  hostname = mail.mailtee.test
}
${EXTRA_CONF:-}
CF
}

case $ACTION in
  start)
    already_running; make_traversable; port_free "$IMAP_PORT" "$POP3_PORT" "$IMAPS_PORT" "$POP3S_PORT" "$LMTP_PORT"
    configure
    ulimit -n "$(ulimit -Hn)" || true
    spawn dovecot dovecot -F -c "$DIR/etc/dovecot.conf"
    wait_port "$LISTEN_ADDR" "$LMTP_PORT" "$DIR/log/dovecot.log"
    wait_port "$LISTEN_ADDR" "$IMAP_PORT" "$DIR/log/dovecot.log"
    echo "dovecot.sh: up, $USERS users (user0001@mailtee.test/pass0001 ...) + alice@mailtee.test/alice"
    say_env IMAP="$LISTEN_ADDR:$IMAP_PORT" IMAPS="$LISTEN_ADDR:$IMAPS_PORT" POP3="$LISTEN_ADDR:$POP3_PORT" \
      POP3S="$LISTEN_ADDR:$POP3S_PORT" LMTP="$LISTEN_ADDR:$LMTP_PORT" LMTPS="$LISTEN_ADDR:$LMTPS_PORT" \
      SIEVE="$LISTEN_ADDR:$SIEVE_PORT" SIEVES="$LISTEN_ADDR:$SIEVES_PORT" LMTP_SOCKET="unix:$DIR/run/lmtp" IMAP_HAPROXY="$LISTEN_ADDR:$IMAP_HAPROXY_PORT" \
      AUTH="inet:$LISTEN_ADDR:$AUTH_PORT" USER_PATTERN='user%04d@mailtee.test' PASS_PATTERN='pass%04d' \
      CA="$DIR/tls/ca.pem" DOVECOT_CONF="$DIR/etc/dovecot.conf" MAIL="$DIR/mail" ;;
  stop)
    p=$(pid_of dovecot); stop_all
    # as a service manager does: what the master leaves behind serves on, and holds the ports
    for sig in TERM KILL; do
      [ -n "$p" ] && pkill -$sig -s "$p" || break
      for _ in $(seq 40); do pgrep -s "$p" >/dev/null || break; sleep 0.05; done
    done
    echo "dovecot.sh: stopped" ;;
  status) status_all ;;
esac
