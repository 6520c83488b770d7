#!/usr/bin/env bash
# perdition.sh - Perdition (IMAP4 and POP3 proxy, one process a session) inside DIR. Needs root.
# Usage:  [VAR=value...] perdition.sh start|stop|status DIR
# Env:    IMAP_PORT (18143)  POP3_PORT (18110)  IMAP_BACKEND (127.0.0.1:10143)  POP3_BACKEND (127.0.0.1:10110)
# Like nginx it logs in itself: server greeting and pre-login capabilities are perdition's own.
source "$(dirname "$0")/lib.sh"
peer_args "$@"; need_root; need perdition
IMAP_PORT=${IMAP_PORT:-18143}; POP3_PORT=${POP3_PORT:-18110}; IB=${IMAP_BACKEND:-127.0.0.1:10143}; PB=${POP3_BACKEND:-127.0.0.1:10110}
case $ACTION in
  start)
    already_running; port_free "$IMAP_PORT" "$POP3_PORT"; make_traversable; : > "$DIR/perdition.conf"
    one() { # NAME PROTOCOL PORT BACKEND
      spawn "$1" perdition --no_daemon --config_file "$DIR/perdition.conf" --protocol "$2" --bind_address "$LISTEN_ADDR:$3" --listen_port "$3" --outgoing_server "${4%:*}:${4##*:}" \
        --outgoing_port "${4##*:}" --map_library "" --username nobody --group nogroup --pid_file "$DIR/$1.perdition.pid" --ssl_mode none --log_facility - --no_lookup \
        --imap_capability "IMAP4 IMAP4REV1 LITERAL+ UIDPLUS IDLE NAMESPACE"
    }
    one imap IMAP4 "$IMAP_PORT" "$IB"; one pop3 POP3 "$POP3_PORT" "$PB"
    wait_port "$LISTEN_ADDR" "$IMAP_PORT" "$DIR/log/imap.out"; wait_port "$LISTEN_ADDR" "$POP3_PORT" "$DIR/log/pop3.out"
    echo "perdition.sh: up"; say_env IMAP="$LISTEN_ADDR:$IMAP_PORT" POP3="$LISTEN_ADDR:$POP3_PORT" ;;
  stop) stop_all; echo "perdition.sh: stopped" ;;
  status) status_all ;;
esac
