#!/usr/bin/env bash
# exim.sh - Exim 4 as an alternative MTA inside DIR: relays everything to NEXT_HOP. Needs root.
# Usage:  [VAR=value...] exim.sh start|stop|status DIR
# Env:    SMTP_PORT (14025)   NEXT_HOP (127.0.0.1:2500)   FILTER=HOST:PORT  like Postfix's content_filter: deliver to FILTER
#         first, then what comes back on REINJECT_PORT (14026) goes to NEXT_HOP      SHADOW=HOST:PORT  unseen copy (bcc) there
#         AUTH=USER:PASSWORD  nobody sends before AUTH as that user: PLAIN, LOGIN, CRAM-MD5 (Exim's own authenticators)
#         TLS=1  STARTTLS, and TLS from the first byte on SMTPS_PORT (14465)
#         EXTRA_MAIN  lines for the main section
# Exim has no milter client. Extracted from Debian's exim4-daemon-light to $MAILTEE_PEERS_PREFIX/exim (conflicts with postfix).
source "$(dirname "$0")/lib.sh"
peer_args "$@"; need_root
EXIM=$PEERS_PREFIX/exim/usr/sbin/exim4; [ -x "$EXIM" ] || die "Exim not found; run install.sh mtas"
SMTP_PORT=${SMTP_PORT:-14025}; REINJECT_PORT=${REINJECT_PORT:-14026}; NEXT_HOP=${NEXT_HOP:-127.0.0.1:2500}; SMTPS_PORT=${SMTPS_PORT:-14465}
case $ACTION in
  start)
    already_running; port_free "$SMTP_PORT"; make_traversable; mkdir -p "$DIR/spool"; chown Debian-exim "$DIR/spool" "$DIR/log"
    [ "${TLS:-}" != 1 ] || make_cert "$DIR/tls"
    { cat <<CF
exim_path = $EXIM
spool_directory = $DIR/spool
log_file_path = $DIR/log/exim-%slog
pid_file_path = $DIR/exim.pid
primary_hostname = exim.mailtee.test
local_interfaces = $LISTEN_ADDR.$SMTP_PORT${TLS:+ : $LISTEN_ADDR.$SMTPS_PORT}${FILTER:+ : $LISTEN_ADDR.$REINJECT_PORT}
domainlist local_domains =
hostlist relay_from_hosts = 127.0.0.0/8
acl_smtp_rcpt = acl_rcpt
acl_smtp_data = acl_data
host_lookup =
rfc1413_query_timeout = 0s
never_users =
deliver_drop_privilege = true
message_size_limit = 100M
smtp_accept_max = 400
smtp_accept_queue_per_connection = 0
smtp_accept_max_per_connection = 100000
queue_run_max = 20
remote_max_parallel = 8
$(if [ "${TLS:-}" = 1 ]; then printf 'tls_advertise_hosts = *\ntls_certificate = %s\ntls_privatekey = %s\ntls_on_connect_ports = %s\n' "$DIR/tls/fullchain.pem" "$DIR/tls/key.pem" "$SMTPS_PORT"
  else echo 'tls_advertise_hosts ='; fi)
prdr_enable = true
chunking_advertise_hosts = *
${EXTRA_MAIN:-}
begin acl
acl_rcpt:
  accept ${AUTH:+authenticated = *}
         hosts = +relay_from_hosts
         control = submission/sender_retain
  deny   message = relay not permitted
acl_data:
  accept
begin routers
CF
      [ -z "${SHADOW:-}" ] || cat <<CF
shadow:
  driver = manualroute
  unseen
  transport = shadow
  route_list = * ${SHADOW%:*}
  self = send
CF
      [ -z "${FILTER:-}" ] || cat <<CF
filter:
  driver = manualroute
  condition = \${if !eq{\$received_port}{$REINJECT_PORT}}
  transport = filter
  route_list = * ${FILTER%:*}
  self = send
CF
      cat <<CF
next:
  driver = manualroute
  transport = next
  route_list = * ${NEXT_HOP%:*}
  self = send
begin transports
next:
  driver = smtp
  port = ${NEXT_HOP##*:}
  allow_localhost
CF
      [ -z "${FILTER:-}" ] || printf 'filter:\n  driver = smtp\n  port = %s\n  allow_localhost\n' "${FILTER##*:}"
      [ -z "${SHADOW:-}" ] || printf 'shadow:\n  driver = smtp\n  port = %s\n  allow_localhost\n' "${SHADOW##*:}"
      [ -z "${AUTH:-}" ] || cat <<CF
begin authenticators
plain:
  driver = plaintext
  public_name = PLAIN
  server_prompts = :
  server_condition = \${if eq{\$auth2:\$auth3}{$AUTH}}
  server_set_id = \$auth2
login:
  driver = plaintext
  public_name = LOGIN
  server_prompts = Username:: : Password::
  server_condition = \${if eq{\$auth1:\$auth2}{$AUTH}}
  server_set_id = \$auth1
cram:
  driver = cram_md5
  public_name = CRAM-MD5
  server_secret = \${if eq{\$auth1}{${AUTH%%:*}}{${AUTH#*:}}fail}
  server_set_id = \$auth1
CF
      printf 'begin retry\n* * F,1h,10s\n'
    } > "$DIR/exim.conf"
    chown root:root "$DIR/exim.conf"; chmod 644 "$DIR/exim.conf"
    spawn exim "$EXIM" -C "$DIR/exim.conf" -bdf -q10s
    wait_port "$LISTEN_ADDR" "$SMTP_PORT" "$DIR/log/exim.out"
    echo "exim.sh: up"; say_env SMTP="$LISTEN_ADDR:$SMTP_PORT" REINJECT="$LISTEN_ADDR:$REINJECT_PORT" ${TLS:+SMTPS="$LISTEN_ADDR:$SMTPS_PORT" CA="$DIR/tls/ca.pem"} NEXT_HOP="$NEXT_HOP" LOG="$DIR/log/exim-mainlog" ;;
  stop) stop_all; echo "exim.sh: stopped" ;;
  status) status_all ;;
esac
