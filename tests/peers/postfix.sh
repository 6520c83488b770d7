#!/usr/bin/env bash
# postfix.sh - a private Postfix instance, wholly inside DIR, on unprivileged loopback ports. Needs root.
#
# Usage:  [VAR=value...] postfix.sh start|stop|status DIR [MODE]
#   MODE  plain (default)  relay everything to NEXT_HOP
#         content_filter   after-queue: queue -> FILTER (smtp + XFORWARD) -> REINJECT_PORT -> NEXT_HOP
#         proxy_filter     before-queue: smtpd -> FILTER (smtpd_proxy_filter) -> REINJECT_PORT -> NEXT_HOP
#         milter           smtpd_milters=inet:FILTER, MILTER_ACTION when the milter is unreachable
#         always_bcc       baseline: a bcc of everything to BCC_ADDRESS, delivered to BCC_HOP
# Env:    SMTP_PORT (10025)  SUBMISSION_PORT (10587, only with SASL_DOVECOT)  REINJECT_PORT (10026)
#         PORT_BASE=N        sets them to N, N+1, N+2 (SMTP, REINJECT, SUBMISSION)
#         NEXT_HOP  127.0.0.1:PORT of smtp-sink or another MTA (default 127.0.0.1:2500)
#         LMTP      127.0.0.1:PORT: mail for LOCAL_DOMAINS (default mailtee.test) goes there by LMTP, the rest to NEXT_HOP
#         FILTER    127.0.0.1:PORT of the filter/milter under test (default 127.0.0.1:10030); a milter also unix:/path
#         FILTER_CONCURRENCY (20)   content_filter: deliveries in parallel; proxy_filter: smtpd processes
#         SPEED_ADJUST=1            proxy_filter: smtpd_proxy_options=speed_adjust
#         MILTER_ACTION tempfail|accept|reject|quarantine|shutdown (default tempfail)
#         BCC_ADDRESS (archive@archive.test)  BCC_HOP (127.0.0.1:2501)
#         TLS=1 (default) offers STARTTLS with DIR/tls/cert.pem; TLS=0 not
#         SASL_DOVECOT=SOCKET|inet:HOST:PORT  a dovecot auth service: SMTP AUTH on SUBMISSION_PORT
#         XCLIENT=1  let loopback clients send XCLIENT (nginx mail proxy does) and XFORWARD on SMTP_PORT
#         PROXY_PROTOCOL=1  expect a haproxy PROXY header on SMTP_PORT
#         POSTSCREEN=1       postscreen on SMTP_PORT, which keeps every stranger waiting for 6 s; loopback is one
#         SMTPS_PORT=N       TLS from the first byte on this port too
#         EXTRA_MAIN 'name=value' lines appended to main.cf
# Then:   sendmail -C DIR/etc ...   postqueue -c DIR/etc -p   postsuper -c DIR/etc -d ALL   DIR/log/maillog
source "$(dirname "$0")/lib.sh"
peer_args "$@"; need_root; need postfix postconf
MODE=${3:-${MODE:-plain}}
if [ -n "${PORT_BASE:-}" ]; then SMTP_PORT=$PORT_BASE REINJECT_PORT=$((PORT_BASE+1)) SUBMISSION_PORT=$((PORT_BASE+2)); fi
SMTP_PORT=${SMTP_PORT:-10025}; REINJECT_PORT=${REINJECT_PORT:-10026}; SUBMISSION_PORT=${SUBMISSION_PORT:-10587}
NEXT_HOP=${NEXT_HOP:-127.0.0.1:2500}; FILTER=${FILTER:-127.0.0.1:10030}; FILTER_CONCURRENCY=${FILTER_CONCURRENCY:-20}
BCC_ADDRESS=${BCC_ADDRESS:-archive@archive.test}; BCC_HOP=${BCC_HOP:-127.0.0.1:2501}
MILTER_ACTION=${MILTER_ACTION:-tempfail}; LOCAL_DOMAINS=${LOCAL_DOMAINS:-mailtee.test}; TLS=${TLS:-1}
hop() { echo "[${1%:*}]:${1##*:}"; }   # host:port -> [host]:port

configure() {
  local e=$DIR/etc
  mkdir -p "$e" "$DIR/spool" "$DIR/data" "$DIR/log"
  chown root:root "$DIR" "$e" "$DIR/spool"; chown postfix "$DIR/data"
  cp /etc/postfix/postfix-files "$e/" 2>/dev/null || true; mkdir -p "$e/postfix-files.d"
  cat > "$e/main.cf" <<CF
compatibility_level = 3.6
config_directory = $e
queue_directory = $DIR/spool
data_directory = $DIR/data
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
maillog_file = $DIR/log/maillog
maillog_file_prefixes = $DIR
syslog_name = postfix-${DIR##*/}
myhostname = mx.mailtee.test
mydomain = mailtee.test
mydestination =
alias_maps =
alias_database =
local_recipient_maps =
local_transport = error:no local delivery
mynetworks = 127.0.0.0/8 [::1]/128 10.0.0.0/8
inet_interfaces = all
inet_protocols = ipv4
relayhost = $(hop "$NEXT_HOP")
smtpd_relay_restrictions = permit_mynetworks, permit_sasl_authenticated, reject_unauth_destination
message_size_limit = 104857600
mailbox_size_limit = 0
biff = no
# deterministic: no DNS anywhere
disable_dns_lookups = yes
smtp_host_lookup = native
smtpd_peername_lookup = no
smtp_tls_security_level = may
smtp_tls_loglevel = 0
# a test may open hundreds of sessions from one address
default_process_limit = 300
smtpd_client_connection_count_limit = 0
smtpd_error_sleep_time = 0
smtputf8_enable = yes
# retry soon: tests do not wait five minutes
minimal_backoff_time = 5s
maximal_backoff_time = 30s
queue_run_delay = 5s
transport_retry_time = 5s
bounce_queue_lifetime = 1h
CF
  if [ "$TLS" = 1 ]; then
    make_cert "$DIR/tls"
    cat >> "$e/main.cf" <<CF
smtpd_tls_security_level = may
smtpd_tls_chain_files = $DIR/tls/key.pem, $DIR/tls/fullchain.pem
CF
  fi
  if [ -n "${LMTP:-}" ]; then
    cat >> "$e/main.cf" <<CF
virtual_mailbox_domains = $LOCAL_DOMAINS
virtual_transport = lmtp:inet:${LMTP}
CF
  fi
  if [ "${XCLIENT:-}" = 1 ]; then
    printf 'smtpd_authorized_xclient_hosts = 127.0.0.0/8\nsmtpd_authorized_xforward_hosts = 127.0.0.0/8\n' >> "$e/main.cf"
  fi
  if [ "${PROXY_PROTOCOL:-}" = 1 ]; then echo 'smtpd_upstream_proxy_protocol = haproxy' >> "$e/main.cf"; fi
  if [ "${POSTSCREEN:-}" = 1 ]; then
    # the cache is of no use here: who has waited once would wait no more
    printf 'postscreen_access_list =\npostscreen_greet_wait = 6s\npostscreen_cache_map =\n' >> "$e/main.cf"
  fi
  if [ -n "${SASL_DOVECOT:-}" ]; then
    cat >> "$e/main.cf" <<CF
smtpd_sasl_type = dovecot
smtpd_sasl_path = $SASL_DOVECOT
CF
  fi
  case $MODE in
    plain) ;;
    content_filter) echo "content_filter = mailtee:$(hop "$FILTER")" >> "$e/main.cf" ;;
    proxy_filter) ;;
    milter)
      local milter=inet:$FILTER; case $FILTER in unix:*) milter=$FILTER ;; esac
      cat >> "$e/main.cf" <<CF
smtpd_milters = $milter
non_smtpd_milters = $milter
milter_default_action = $MILTER_ACTION
milter_protocol = 6
milter_connect_timeout = 5s
milter_mail_macros = i {mail_addr} {client_addr} {client_name} {auth_authen} {auth_type}
CF
      ;;
    always_bcc) cat >> "$e/main.cf" <<CF
always_bcc = $BCC_ADDRESS
transport_maps = inline:{ { $BCC_ADDRESS = archive:$(hop "$BCC_HOP") } }
CF
      ;;
    *) die "unknown MODE $MODE" ;;
  esac
  [ -z "${EXTRA_MAIN:-}" ] || printf '%s\n' "$EXTRA_MAIN" >> "$e/main.cf"

  { # master.cf: service type private unpriv chroot wakeup maxproc command
    if [ "$MODE" = proxy_filter ]; then
      cat <<CF
$LISTEN_ADDR:$SMTP_PORT inet n - n - $FILTER_CONCURRENCY smtpd
  -o smtpd_proxy_filter=$FILTER
  -o smtpd_client_connection_count_limit=0
  -o smtpd_proxy_timeout=100s
CF
      [ "${SPEED_ADJUST:-}" = 1 ] && echo "  -o smtpd_proxy_options=speed_adjust"
    elif [ "${POSTSCREEN:-}" = 1 ]; then
      echo "$LISTEN_ADDR:$SMTP_PORT inet n - n - 1 postscreen"
      printf '%s\n' 'smtpd pass - - n - - smtpd' 'dnsblog unix - - n - 0 dnsblog' 'tlsproxy unix - - n - 0 tlsproxy'
    else
      echo "$LISTEN_ADDR:$SMTP_PORT inet n - n - - smtpd"
    fi
    [ -z "${SMTPS_PORT:-}" ] || printf '%s\n' "$LISTEN_ADDR:$SMTPS_PORT inet n - n - - smtpd" '  -o smtpd_tls_wrappermode=yes'
    if [ -n "${SASL_DOVECOT:-}" ]; then
      cat <<CF
$LISTEN_ADDR:$SUBMISSION_PORT inet n - n - - smtpd
  -o syslog_name=postfix-${DIR##*/}/submission
  -o smtpd_sasl_auth_enable=yes
  -o smtpd_relay_restrictions=permit_sasl_authenticated,reject
CF
    fi
    case $MODE in content_filter|proxy_filter)
      cat <<CF
$LISTEN_ADDR:$REINJECT_PORT inet n - n - - smtpd
  -o syslog_name=postfix-${DIR##*/}/reinject
  -o content_filter=
  -o smtpd_proxy_filter=
  -o receive_override_options=no_unknown_recipient_checks,no_header_body_checks,no_milters$([ "$MODE" = proxy_filter ] || echo ,no_address_mappings)
  -o smtpd_helo_restrictions=
  -o smtpd_client_restrictions=
  -o smtpd_sender_restrictions=
  -o smtpd_relay_restrictions=permit_mynetworks,reject
  -o smtpd_recipient_restrictions=permit_mynetworks,reject
  -o mynetworks=127.0.0.0/8
  -o smtpd_authorized_xforward_hosts=127.0.0.0/8
  -o smtpd_tls_security_level=none
CF
      ;; esac
    cat <<CF
mailtee   unix  -       -       n       -       $FILTER_CONCURRENCY      smtp
  -o smtp_send_xforward_command=yes
  -o smtp_data_done_timeout=1200s
  -o disable_mime_output_conversion=yes
  -o smtp_generic_maps=
  -o smtp_tls_security_level=none
archive   unix  -       -       n       -       -       smtp
pickup    unix  n       -       n       60      1       pickup
cleanup   unix  n       -       n       -       0       cleanup
qmgr      unix  n       -       n       300     1       qmgr
tlsmgr    unix  -       -       n       1000?   1       tlsmgr
rewrite   unix  -       -       n       -       -       trivial-rewrite
bounce    unix  -       -       n       -       0       bounce
defer     unix  -       -       n       -       0       bounce
trace     unix  -       -       n       -       0       bounce
verify    unix  -       -       n       -       1       verify
flush     unix  n       -       n       1000?   0       flush
proxymap  unix  -       -       n       -       -       proxymap
proxywrite unix -       -       n       -       1       proxymap
smtp      unix  -       -       n       -       -       smtp
relay     unix  -       -       n       -       -       smtp
showq     unix  n       -       n       -       -       showq
error     unix  -       -       n       -       -       error
retry     unix  -       -       n       -       -       error
discard   unix  -       -       n       -       -       discard
lmtp      unix  -       -       n       -       -       lmtp
anvil     unix  -       -       n       -       1       anvil
scache    unix  -       -       n       -       1       scache
postlog   unix-dgram n  -       n       -       1       postlogd
CF
  } > "$e/master.cf"
}

case $ACTION in
  start)
    already_running; make_traversable
    port_free "$SMTP_PORT"; case $MODE in content_filter|proxy_filter) port_free "$REINJECT_PORT" ;; esac
    configure
    postfix -c "$DIR/etc" start >>"$DIR/log/postfix.out" 2>&1 || { cat "$DIR/log/postfix.out" >&2; die "postfix start failed"; }
    record_pid master "$(tr -d ' ' < "$DIR/spool/pid/master.pid")"
    # without PROXY_PROTOCOL a bare connect is enough to see that smtpd listens
    wait_port "$LISTEN_ADDR" "$SMTP_PORT" "$DIR/log/maillog"
    echo "postfix.sh: $MODE instance up"
    say_env MODE="$MODE" SMTP="$LISTEN_ADDR:$SMTP_PORT" REINJECT="$LISTEN_ADDR:$REINJECT_PORT" NEXT_HOP="$NEXT_HOP" \
      FILTER="$FILTER" MAIL_CONFIG="$DIR/etc" MAILLOG="$DIR/log/maillog" CA="$DIR/tls/ca.pem" \
      ${SMTPS_PORT:+SMTPS="$LISTEN_ADDR:$SMTPS_PORT"} ${SASL_DOVECOT:+SUBMISSION="$LISTEN_ADDR:$SUBMISSION_PORT"} ;;
  stop)
    if alive master; then postfix -c "$DIR/etc" stop >>"$DIR/log/postfix.out" 2>&1 || true; stop_one master; fi
    rm -f "$DIR/pids/master.pid"
    echo "postfix.sh: stopped" ;;
  status) status_all ;;
esac
