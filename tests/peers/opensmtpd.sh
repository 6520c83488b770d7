#!/usr/bin/env bash
# opensmtpd.sh - OpenSMTPD 6.8 as an alternative MTA inside DIR: relays everything to NEXT_HOP. Needs root.
# Usage:  [VAR=value...] opensmtpd.sh start|stop|status DIR
# Env:    SMTP_PORT (16025)   NEXT_HOP (127.0.0.1:2500)
# Its spool and socket paths are compiled in, so it runs in a mount namespace of its own with DIR bound over them.
# Extracted from Debian's opensmtpd to $MAILTEE_PEERS_PREFIX/opensmtpd (conflicts with postfix).
source "$(dirname "$0")/lib.sh"
peer_args "$@"; need_root; need unshare
SMTPD=$PEERS_PREFIX/opensmtpd/usr/sbin/smtpd; [ -x "$SMTPD" ] || die "OpenSMTPD not found; run install.sh mtas"
SMTP_PORT=${SMTP_PORT:-16025}; NEXT_HOP=${NEXT_HOP:-127.0.0.1:2500}
case $ACTION in
  start)
    already_running; port_free "$SMTP_PORT"; make_traversable; mkdir -p "$DIR/spool" "$DIR/run" "$DIR/empty"; chmod 711 "$DIR/spool"
    cat > "$DIR/smtpd.conf" <<CF
smtp max-message-size 100M
queue ttl 1h
listen on $LISTEN_ADDR port $SMTP_PORT hostname opensmtpd.mailtee.test
action "next" relay host "smtp://${NEXT_HOP}" helo opensmtpd.mailtee.test
match from any for any action "next"
CF
    chmod 600 "$DIR/smtpd.conf"
    mkdir -p /var/spool/smtpd /var/lib/opensmtpd/empty
    spawn opensmtpd unshare --mount --propagation private sh -c \
      'mount --bind "$1/spool" /var/spool/smtpd && mount --bind "$1/run" /run && mount --bind "$1/empty" /var/lib/opensmtpd/empty && exec "$2" -d -f "$1/smtpd.conf"' sh "$DIR" "$SMTPD"
    wait_port "$LISTEN_ADDR" "$SMTP_PORT" "$DIR/log/opensmtpd.out"
    echo "opensmtpd.sh: up"; say_env SMTP="$LISTEN_ADDR:$SMTP_PORT" NEXT_HOP="$NEXT_HOP" LOG="$DIR/log/opensmtpd.out" ;;
  stop) stop_all; echo "opensmtpd.sh: stopped" ;;
  status) status_all ;;
esac
