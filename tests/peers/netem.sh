#!/usr/bin/env bash
# netem.sh - two network namespaces joined by a slow link. Needs root.
# Usage:  [VAR=value...] netem.sh start|stop|status DIR
#         netem.sh exec DIR client|server CMD...       run a command in one end
#         netem.sh down|up DIR                         break the link / mend it (packets dropped silently)
# Env:    NAME (tee)         namespaces NAME-c and NAME-s (several at once: give each its own NAME)
#         CLIENT_IP 10.99.0.1  SERVER_IP 10.99.0.2   DELAY_MS 50 (one way: RTT is twice this)  MBIT 50 (0 = unlimited)
#         QUEUE_MS 200  LOSS 0.0  MTU 1500  CC (kernel default; e.g. cubic)
#         ENGINE  netem  veth pair + tc netem (where the kernel has sch_netem)
#                 tun    netdelay.py, user space, about 1/8 of a core at 50 Mbit/s (the default where netem is missing)
source "$(dirname "$0")/lib.sh"
case ${1:-} in
  exec) D=$(cd "$2" && pwd); . "$D/connect.env"; case $3 in client) ns=$NS_CLIENT ;; server) ns=$NS_SERVER ;; *) die "client|server" ;; esac
    shift 3; exec ip netns exec "$ns" "$@" ;;
  down|up) D=$(cd "$2" && pwd); . "$D/connect.env"; read -r p _ < "$D/pids/netdelay.pid" || die "tun engine only"
    [ "$1" = down ] && kill -USR1 "$p" || kill -USR2 "$p"; exit ;;
esac
peer_args "$@"; need_root; need ip tc
NAME=${NAME:-tee}; C=$NAME-c; S=$NAME-s; CLIENT_IP=${CLIENT_IP:-10.99.0.1}; SERVER_IP=${SERVER_IP:-10.99.0.2}
DELAY_MS=${DELAY_MS:-50}; MBIT=${MBIT:-50}; QUEUE_MS=${QUEUE_MS:-200}; LOSS=${LOSS:-0}; MTU=${MTU:-1500}
have_netem() { ip link add nmtst0 type dummy 2>/dev/null || ip link add nmtst0 type veth peer name nmtst1 || return 1
  local rc=0; tc qdisc add dev nmtst0 root netem delay 1ms 2>/dev/null || rc=1; ip link del nmtst0; return $rc; }
case $ACTION in
  start)
    already_running
    [ ! -e "/run/netns/$C" ] || die "namespace $C exists; give another NAME"
    ENGINE=${ENGINE:-$(have_netem && echo netem || echo tun)}
    trap 'stop_all; ip netns del "$C" 2>/dev/null; ip netns del "$S" 2>/dev/null; rm -f "$DIR/netns"' ERR
    ip netns add "$C"; ip netns add "$S"; printf '%s %s\n' "$C" "$S" > "$DIR/netns"
    if [ "$ENGINE" = netem ]; then
      ip link add tee0 netns "$C" type veth peer name tee0 netns "$S"
      r=(); [ "$MBIT" = 0 ] || r=(rate "${MBIT}mbit")
      for n in "$C" "$S"; do ip netns exec "$n" tc qdisc add dev tee0 root netem delay "${DELAY_MS}ms" "${r[@]}" loss "$(awk "BEGIN{print $LOSS*100}")%" limit 10000; done
    else
      : > "$DIR/log/netdelay.out"; spawn netdelay python3 "$PEERS_HERE/netdelay.py" --ns-a "$C" --ns-b "$S" --delay-ms "$DELAY_MS" --mbit "$MBIT" --queue-ms "$QUEUE_MS" --loss "$LOSS" --mtu "$MTU"
      for _ in $(seq 100); do grep -q ready "$DIR/log/netdelay.out" 2>/dev/null && break; sleep 0.05; done
    fi
    for x in "$C $CLIENT_IP $SERVER_IP" "$S $SERVER_IP $CLIENT_IP"; do
      read -r n me peer <<<"$x"
      ip -n "$n" link set lo up; ip -n "$n" link set tee0 mtu "$MTU" up; ip -n "$n" addr add "$me/32" peer "$peer" dev tee0
      [ -z "${CC:-}" ] || ip -n "$n" route replace "$peer" dev tee0 src "$me" congctl "$CC"
    done
    echo "netem.sh: $ENGINE link up: RTT $((${DELAY_MS%.*} * 2)) ms, $MBIT Mbit/s, loss $LOSS"
    say_env NS_CLIENT="$C" NS_SERVER="$S" CLIENT_IP="$CLIENT_IP" SERVER_IP="$SERVER_IP" ENGINE="$ENGINE" ;;
  stop)
    # processes still inside the namespaces keep running: stop them first
    stop_all; [ ! -f "$DIR/netns" ] || { for n in $(cat "$DIR/netns"); do ip netns del "$n" 2>/dev/null || true; done; rm -f "$DIR/netns"; }
    echo "netem.sh: stopped" ;;
  status) if [ -f "$DIR/netns" ]; then echo "netem.sh: namespaces $(cat "$DIR/netns")"; if ls "$DIR"/pids/*.pid >/dev/null 2>&1; then status_all; fi; else echo "netem.sh: not running"; exit 3; fi ;;
esac
