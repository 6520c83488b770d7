#!/usr/bin/env bash
# prometheus.sh - Prometheus (+ Alertmanager) inside DIR, scraping given targets with given rules.
# Usage:  [VAR=value...] prometheus.sh start|stop|status DIR
# Env:    PORT (19090)  AM_PORT (19093; AM=0 for no Alertmanager)
#         TARGETS      "127.0.0.1:9100 127.0.0.1:9101" (job mailtee)   METRICS_PATH (/metrics)  SCHEME (http)
#         RULES        a rules file to load (checked with promtool first)
#         SCRAPE (1s)  EVAL (1s)   WEBHOOK  URL that Alertmanager posts alerts to
# Query:  curl "http://127.0.0.1:19090/api/v1/query?query=up"   alerts: /api/v1/alerts ; Alertmanager: :19093/api/v2/alerts
source "$(dirname "$0")/lib.sh"
peer_args "$@"; need prometheus promtool
PORT=${PORT:-19090}; AM_PORT=${AM_PORT:-19093}; AM=${AM:-1}; TARGETS=${TARGETS:-127.0.0.1:$PORT}
case $ACTION in
  start)
    already_running; port_free "$PORT"; [ "$AM" = 0 ] || { need prometheus-alertmanager; port_free "$AM_PORT"; }
    mkdir -p "$DIR/data" "$DIR/am"
    list=$(printf "'%s'," $TARGETS); 
    { cat <<CF
global: { scrape_interval: ${SCRAPE:-1s}, scrape_timeout: ${SCRAPE:-1s}, evaluation_interval: ${EVAL:-1s} }
scrape_configs:
  - job_name: mailtee
    metrics_path: ${METRICS_PATH:-/metrics}
    scheme: ${SCHEME:-http}
    static_configs: [ { targets: [ ${list%,} ] } ]
CF
      if [ -n "${RULES:-}" ]; then cp "$RULES" "$DIR/rules.yml"; echo "rule_files: [ $DIR/rules.yml ]"; fi
      if [ "$AM" != 0 ]; then echo "alerting: { alertmanagers: [ { static_configs: [ { targets: [ '$LISTEN_ADDR:$AM_PORT' ] } ] } ] }"; fi
    } > "$DIR/prometheus.yml"
    promtool check config "$DIR/prometheus.yml" > "$DIR/log/promtool.out" 2>&1 || { cat "$DIR/log/promtool.out" >&2; die "bad config or rules"; }
    if [ "$AM" != 0 ]; then
      cat > "$DIR/alertmanager.yml" <<CF
route: { receiver: kit, group_wait: 1s, group_interval: 2s, repeat_interval: 1h }
receivers:
  - name: kit
$([ -z "${WEBHOOK:-}" ] || printf "    webhook_configs: [ { url: '%s', send_resolved: true } ]" "$WEBHOOK")
CF
      spawn alertmanager prometheus-alertmanager --config.file="$DIR/alertmanager.yml" --storage.path="$DIR/am" --web.listen-address="$LISTEN_ADDR:$AM_PORT" --cluster.listen-address=
      wait_port "$LISTEN_ADDR" "$AM_PORT" "$DIR/log/alertmanager.out"
    fi
    spawn prometheus prometheus --config.file="$DIR/prometheus.yml" --storage.tsdb.path="$DIR/data" --web.listen-address="$LISTEN_ADDR:$PORT" --web.enable-lifecycle
    wait_port "$LISTEN_ADDR" "$PORT" "$DIR/log/prometheus.out"
    # target discovery takes about 5 s: return once the first scrape is in
    end=$((SECONDS + START_TIMEOUT))
    until curl -s "http://$LISTEN_ADDR:$PORT/api/v1/query?query=up" | grep -q '"metric"'; do [ $SECONDS -lt $end ] || die "no scrape after ${START_TIMEOUT}s; see $DIR/log/prometheus.out"; sleep 0.2; done
    echo "prometheus.sh: up"; say_env PROMETHEUS="http://$LISTEN_ADDR:$PORT" ALERTMANAGER="http://$LISTEN_ADDR:$AM_PORT" ;;
  stop) stop_all; echo "prometheus.sh: stopped" ;;
  status) status_all ;;
esac
