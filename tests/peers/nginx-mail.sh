#!/usr/bin/env bash
# nginx-mail.sh - nginx as an IMAP/POP3/SMTP proxy with its own auth_http, inside DIR.
# Usage:  [VAR=value...] nginx-mail.sh start|stop|status DIR
# Env:    PORT_BASE (12100): IMAP=+43 POP3=+10 SMTP=+25 IMAPS=+93 AUTH=+80 (the auth_http endpoint) HTTPS=+44 (the same)
#         IMAP_BACKEND (127.0.0.1:10143)  POP3_BACKEND (127.0.0.1:10110)  SMTP_BACKEND (127.0.0.1:10025)
#         WORKERS (1)  XCLIENT on|off (off; on needs postfix.sh XCLIENT=1)  PROXY_PROTOCOL on|off to the backend (off)
# nginx ends the login itself: it offers IMAP_CAPS, asks auth_http where to go, then logs in upstream with the user's password.
# So it never passes the server's own greeting or pre-login capabilities through: a proxy that is not transparent, for comparison.
source "$(dirname "$0")/lib.sh"
peer_args "$@"; need nginx
B=${PORT_BASE:-12100}; IMAP_PORT=${IMAP_PORT:-$((B+43))}; POP3_PORT=${POP3_PORT:-$((B+10))}; SMTP_PORT=${SMTP_PORT:-$((B+25))}; IMAPS_PORT=${IMAPS_PORT:-$((B+93))}; AUTH_PORT=${AUTH_PORT:-$((B+80))}; HTTPS_PORT=${HTTPS_PORT:-$((B+44))}
IB=${IMAP_BACKEND:-127.0.0.1:10143}; PB=${POP3_BACKEND:-127.0.0.1:10110}; SB=${SMTP_BACKEND:-127.0.0.1:10025}
case $ACTION in
  start)
    already_running; port_free "$IMAP_PORT" "$AUTH_PORT"; mkdir -p "$DIR/tmp"; make_traversable; make_cert "$DIR/tls"
    cat > "$DIR/nginx.conf" <<CF
load_module /usr/lib/nginx/modules/ngx_mail_module.so;
daemon off;
worker_processes ${WORKERS:-1};
worker_rlimit_nofile $(ulimit -Hn);
pid $DIR/nginx.pid;
error_log $DIR/log/error.log info;
events { worker_connections 8192; }
http {
  access_log off;
  client_body_temp_path $DIR/tmp/a; proxy_temp_path $DIR/tmp/b; fastcgi_temp_path $DIR/tmp/c; uwsgi_temp_path $DIR/tmp/d; scgi_temp_path $DIR/tmp/e;
  map \$http_auth_protocol \$back_host { imap ${IB%:*}; pop3 ${PB%:*}; smtp ${SB%:*}; }
  map \$http_auth_protocol \$back_port { imap ${IB##*:}; pop3 ${PB##*:}; smtp ${SB##*:}; }
  server {
    listen $LISTEN_ADDR:$AUTH_PORT;
    listen $LISTEN_ADDR:$HTTPS_PORT ssl;
    ssl_certificate $DIR/tls/fullchain.pem;
    ssl_certificate_key $DIR/tls/key.pem;
    location /auth {
      add_header Auth-Status OK;
      add_header Auth-Server \$back_host;
      add_header Auth-Port \$back_port;
      return 200;
    }
  }
}
mail {
  server_name mail.mailtee.test;
  auth_http $LISTEN_ADDR:$AUTH_PORT/auth;
  proxy_pass_error_message on;
  proxy_protocol ${PROXY_PROTOCOL:-off};
  xclient ${XCLIENT:-off};
  ssl_certificate $DIR/tls/fullchain.pem;
  ssl_certificate_key $DIR/tls/key.pem;
  starttls on;
  server { listen $LISTEN_ADDR:$IMAP_PORT; protocol imap; imap_auth plain login; imap_capabilities "IMAP4rev1" "LITERAL+" "SASL-IR" "IDLE" "UIDPLUS" "NAMESPACE"; }
  server { listen $LISTEN_ADDR:$IMAPS_PORT ssl; starttls off; protocol imap; imap_auth plain login; }
  server { listen $LISTEN_ADDR:$POP3_PORT; protocol pop3; pop3_auth plain; }
  server { listen $LISTEN_ADDR:$SMTP_PORT; protocol smtp; smtp_auth none; smtp_capabilities "SIZE 104857600" 8BITMIME PIPELINING; }
}
CF
    spawn nginx nginx -c "$DIR/nginx.conf" -p "$DIR" -e "$DIR/log/error.log"
    wait_port "$LISTEN_ADDR" "$IMAP_PORT" "$DIR/log/error.log"; wait_port "$LISTEN_ADDR" "$AUTH_PORT" "$DIR/log/error.log"
    echo "nginx-mail.sh: up"; say_env IMAP="$LISTEN_ADDR:$IMAP_PORT" IMAPS="$LISTEN_ADDR:$IMAPS_PORT" POP3="$LISTEN_ADDR:$POP3_PORT" SMTP="$LISTEN_ADDR:$SMTP_PORT" HTTP="$LISTEN_ADDR:$AUTH_PORT" HTTPS="$LISTEN_ADDR:$HTTPS_PORT" CA="$DIR/tls/ca.pem" NGINX_PID="$(pid_of nginx)" ;;
  stop) stop_all; echo "nginx-mail.sh: stopped" ;;
  status) status_all ;;
esac
