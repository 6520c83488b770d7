#!/usr/bin/env bash
# sink.sh - Postfix's smtp-sink as a next hop / archive peer, inside DIR.
#
# Usage:  [VAR=value...] sink.sh start|stop|status DIR
# Env:    PORT (2500)   BACKLOG (1024)
#         LMTP=1        speak LMTP
#         CAPTURE=files each transaction to its own file DIR/mail/<time>.<hex> (X-Client-Addr.. headers first)
#         CAPTURE=one   all transactions appended to one mbox-like file DIR/mail/all
#         SINK_ARGS     more smtp-sink options, for failure injection, e.g.
#                       "-q rcpt" (drop the connection at RCPT)   "-r data" (4xx)   "-f mail" (5xx hard)
#                       "-e" (no EHLO)  "-p" (no pipelining)  "-w 2" (2 s before the DATA reply)
#                       "-m 10" (at most 10 sessions)  "-n 100" (exit after 100 messages)   see smtp-sink(1)
# Count:  DIR/log/sink.out: smtp-sink -c keeps a running counter there (carriage returns)
source "$(dirname "$0")/lib.sh"
peer_args "$@"; need smtp-sink
PORT=${PORT:-2500}; BACKLOG=${BACKLOG:-1024}
case $ACTION in
  start)
    already_running; port_free "$PORT"; make_traversable
    args=(-c); u=()
    if [ "$(id -u)" = 0 ]; then u=(-u nobody); fi
    [ "${LMTP:-}" = 1 ] && args+=(-L)
    mkdir -p "$DIR/mail"; chmod 1777 "$DIR/mail"
    case ${CAPTURE:-} in
      files) args+=(-d "$DIR/mail/%s.") ;;
      one) args+=(-D "$DIR/mail/all") ;;
      '') ;; *) die "CAPTURE=files|one" ;;
    esac
    # shellcheck disable=SC2206
    args+=(${SINK_ARGS:-})
    spawn sink smtp-sink "${u[@]}" "${args[@]}" "$LISTEN_ADDR:$PORT" "$BACKLOG"
    wait_port "$LISTEN_ADDR" "$PORT" "$DIR/log/sink.out"
    echo "sink.sh: up"; say_env SINK="$LISTEN_ADDR:$PORT" MAIL="$DIR/mail" ;;
  stop) stop_all; echo "sink.sh: stopped" ;;
  status) status_all ;;
esac
