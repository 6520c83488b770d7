#!/usr/bin/env bash
# opendkim.sh - OpenDKIM as a milter, inside DIR: adds DKIM-Signature (sign) or Authentication-Results (verify).
#
# Usage:  [VAR=value...] opendkim.sh start|stop|status DIR
# Env:    PORT (8891)
#         MODE (sign)       sign: signs what comes from loopback; verify: checks it
#         CANONICALIZATION (relaxed/simple)   sign: of header and body
#         KEYS              verify: the PUBLIC_KEYS file of the instance that signs; no DNS is asked
# Then:   postfix.sh with MODE milter and FILTER=127.0.0.1:PORT
source "$(dirname "$0")/lib.sh"
peer_args "$@"; need opendkim openssl
PORT=${PORT:-8891}; MODE=${MODE:-sign}

configure() {
  local key=$DIR/dkim.pem
  [ -s "$key" ] || openssl genrsa -out "$key" 2048 2>/dev/null
  chmod 600 "$key"
  printf 'peer._domainkey.mailtee.test v=DKIM1; k=rsa; p=%s\n' \
    "$(openssl rsa -in "$key" -pubout -outform DER 2>/dev/null | openssl base64 -A)" > "$DIR/public-keys"
  cat > "$DIR/opendkim.conf" <<CF
Syslog                  no
Background              no
Socket                  inet:$PORT@$LISTEN_ADDR
Canonicalization        ${CANONICALIZATION:-relaxed/simple}
SoftwareHeader          yes
RequireSafeKeys         no
CF
  case $MODE in
    sign) printf 'Mode s\nDomain mailtee.test\nSelector peer\nKeyFile %s\nSubDomains yes\nInternalHosts 127.0.0.0/8\n' "$key" ;;
    verify)
      echo "10.0.0.1" > "$DIR/internal"   # loopback is not: it is verified
      printf 'Mode v\nAlwaysAddARHeader yes\nAuthservID mx.mailtee.test\nInternalHosts %s\nTestPublicKeys %s\n' \
        "$DIR/internal" "${KEYS:?the PUBLIC_KEYS of the signing instance}" ;;
    *) die "MODE=sign|verify" ;;
  esac >> "$DIR/opendkim.conf"
}

case $ACTION in
  start)
    already_running; port_free "$PORT"
    configure
    spawn opendkim opendkim -f -x "$DIR/opendkim.conf"
    wait_port "$LISTEN_ADDR" "$PORT" "$DIR/log/opendkim.out"
    echo "opendkim.sh: up ($MODE)"; say_env MILTER="$LISTEN_ADDR:$PORT" PUBLIC_KEYS="$DIR/public-keys" ;;
  # it waits for its idle connections when asked politely, and keeps no state
  stop) stop_one opendkim KILL; echo "opendkim.sh: stopped" ;;
  status) status_all ;;
esac
