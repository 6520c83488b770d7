#!/usr/bin/env bash
# haproxy.sh - HAProxy as plain TCP forwarders, inside DIR.
# Usage:  [VAR=value...] haproxy.sh start|stop|status DIR
# Env:    FORWARD  "LISTENPORT=HOST:PORT ..." (default "13143=127.0.0.1:10143")
#         PROXY=v1|v2   send a PROXY protocol header to the backends (default none)
#         SPLICE=1      option splice-auto (kernel splice; less CPU for bulk)   NBTHREAD (1)   MAXCONN (4000)
#         TLS_PORTS     "LISTENPORT ..." of FORWARD that end TLS at haproxy with DIR/tls
# Stats:  echo 'show info' | socat - DIR/admin.sock
source "$(dirname "$0")/lib.sh"
peer_args "$@"; need haproxy
FORWARD=${FORWARD:-13143=127.0.0.1:10143}
case $ACTION in
  start)
    already_running; for f in $FORWARD; do port_free "${f%%=*}"; done
    make_cert "$DIR/tls"
    { cat <<CF
global
  maxconn ${MAXCONN:-4000}
  nbthread ${NBTHREAD:-1}
  stats socket $DIR/admin.sock mode 600 level admin
  log stderr format raw local0 warning
defaults
  mode tcp
  timeout connect 5s
  timeout client 1h
  timeout server 1h
  maxconn ${MAXCONN:-4000}
$([ "${SPLICE:-}" = 1 ] && echo "  option splice-auto")
CF
      for f in $FORWARD; do
        p=${f%%=*}; tls=; case " ${TLS_PORTS:-} " in *" $p "*) tls=" ssl crt $DIR/tls/combined.pem" ;; esac
        printf 'listen f%s\n  bind %s:%s%s\n  server s %s%s\n' "$p" "$LISTEN_ADDR" "$p" "$tls" "${f#*=}" "$(case ${PROXY:-} in v1) echo ' send-proxy';; v2) echo ' send-proxy-v2';; esac)"
      done
    } > "$DIR/haproxy.cfg"
    spawn haproxy haproxy -db -f "$DIR/haproxy.cfg"
    for f in $FORWARD; do wait_port "$LISTEN_ADDR" "${f%%=*}" "$DIR/log/haproxy.out"; done
    echo "haproxy.sh: up"; say_env FORWARD="$FORWARD" ADMIN_SOCK="$DIR/admin.sock" HAPROXY_PID="$(pid_of haproxy)" CA="$DIR/tls/ca.pem" ;;
  stop) stop_all; echo "haproxy.sh: stopped" ;;
  status) status_all ;;
esac
