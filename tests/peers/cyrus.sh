#!/usr/bin/env bash
# cyrus.sh - a private Cyrus IMAP 3.6 (IMAP, POP3, LMTP, and JMAP over HTTP), wholly inside DIR. Needs root.
#
# Usage:  [VAR=value...] cyrus.sh start|stop|status DIR
# Env:    PORT_BASE (11100): IMAP=+43 POP3=+10 LMTP=+24 HTTP=+80 (JMAP), HTTPS=+83, IMAPS=+93 POP3S=+95 SIEVE=+90
#         USERS (3)       user0001 ... password pass0001 ...; also alice/alice; admin cyrus/cyrus (no domain in names)
#         MUNGE8BIT (no)  yes is Cyrus's own default: 8-bit header bytes are replaced by X, so stored bytes differ
#         JMAP_MAX_UPLOAD (1048576, in KiB)   EXTRA_IMAPD lines appended to imapd.conf
# JMAP:   http://127.0.0.1:HTTP/.well-known/jmap   Basic auth (plaintext allowed on loopback)
# Debian's cyrus-imapd package conflicts with dovecot-imapd; install.sh extracts imapd/pop3d to $MAILTEE_PEERS_PREFIX/cyrus
# and installs cyrus-common + cyrus-caldav (httpd, built with JMAP) beside Dovecot.
# Cyrus logs to syslog only (no file here); protocol telemetry: mkdir DIR/conf/log/USER (owner cyrus).
source "$(dirname "$0")/lib.sh"
peer_args "$@"; need_root; need openssl saslpasswd2
LIBEXEC=/usr/lib/cyrus/bin; X=$PEERS_PREFIX/cyrus/usr/lib/cyrus/bin
[ -x $LIBEXEC/httpd ] && [ -x "$X/imapd" ] || die "Cyrus not installed; run install.sh cyrus"
B=${PORT_BASE:-11100}
IMAP_PORT=${IMAP_PORT:-$((B+43))}; POP3_PORT=${POP3_PORT:-$((B+10))}; LMTP_PORT=${LMTP_PORT:-$((B+24))}
HTTP_PORT=${HTTP_PORT:-$((B+80))}; HTTPS_PORT=${HTTPS_PORT:-$((B+83))}; IMAPS_PORT=${IMAPS_PORT:-$((B+93))}
POP3S_PORT=${POP3S_PORT:-$((B+95))}; SIEVE_PORT=${SIEVE_PORT:-$((B+90))}
USERS=${USERS:-3}; JMAP_MAX_UPLOAD=${JMAP_MAX_UPLOAD:-1048576}

configure() {
  mkdir -p "$DIR"/{etc,conf/{db,log,msg,proc,socket,user,quota,sync},spool,sieve,search,run/{proc,lock,socket}}
  make_cert "$DIR/tls"
  cat > "$DIR/etc/imapd.conf" <<CF
configdirectory: $DIR/conf
defaultpartition: default
partition-default: $DIR/spool
sievedir: $DIR/sieve
proc_path: $DIR/run/proc
mboxname_lockpath: $DIR/run/lock
lmtpsocket: $DIR/run/socket/lmtp
idlesocket: $DIR/run/socket/idle
notifysocket: $DIR/run/socket/notify
statuscache_db_path: $DIR/conf/statuscache.db
admins: cyrus
servername: mail.mailtee.test
unixhierarchysep: yes
altnamespace: yes
hashimapspool: yes
allowplaintext: yes
allowanonymouslogin: no
sasl_pwcheck_method: auxprop
sasl_auxprop_plugin: sasldb
sasl_sasldb_path: $DIR/etc/sasldb2
sasl_mech_list: PLAIN LOGIN
sasl_auto_transition: no
autocreate_quota: 0
autocreate_post: yes
autocreate_inbox_folders: Sent|Drafts|Trash|Junk|Archive
autocreate_subscribe_folders: Sent|Drafts|Trash|Junk|Archive
xlist-sent: Sent
xlist-drafts: Drafts
xlist-trash: Trash
xlist-junk: Junk
xlist-archive: Archive
specialusealways: yes
conversations: yes
conversations_db: twoskip
httpmodules: jmap
httpallowcompress: yes
jmap_max_size_upload: $JMAP_MAX_UPLOAD
jmap_nonstandard_extensions: no
search_engine: xapian
defaultsearchtier: t1
t1searchpartition-default: $DIR/search
search_fuzzy_always: off
lmtp_downcase_rcpt: yes
tls_server_cert: $DIR/tls/fullchain.pem
tls_server_key: $DIR/tls/key.pem
tls_session_timeout: 0
maxmessagesize: 104857600
popminpoll: 0
syslog_prefix: cyrus
munge8bit: ${MUNGE8BIT:-no}
${EXTRA_IMAPD:-}
CF
  local C="-C $DIR/etc/imapd.conf"
  cat > "$DIR/etc/cyrus.conf" <<CF
START {
  recover  cmd="$LIBEXEC/ctl_cyrusdb $C -r"
}
SERVICES {
  imap   cmd="$X/imapd $C -U 100" listen="$LISTEN_ADDR:$IMAP_PORT" prefork=0 maxchild=500
  imaps  cmd="$X/imapd $C -s -U 100" listen="$LISTEN_ADDR:$IMAPS_PORT" prefork=0 maxchild=500
  pop3   cmd="$X/pop3d $C -U 100" listen="$LISTEN_ADDR:$POP3_PORT" prefork=0 maxchild=100
  pop3s  cmd="$X/pop3d $C -s -U 100" listen="$LISTEN_ADDR:$POP3S_PORT" prefork=0 maxchild=100
  sieve  cmd="$LIBEXEC/timsieved $C" listen="$LISTEN_ADDR:$SIEVE_PORT" prefork=0 maxchild=50
  http   cmd="$LIBEXEC/httpd $C -U 100" listen="$LISTEN_ADDR:$HTTP_PORT" prefork=0 maxchild=100
  https  cmd="$LIBEXEC/httpd $C -s -U 100" listen="$LISTEN_ADDR:$HTTPS_PORT" prefork=0 maxchild=100
  lmtp   cmd="$LIBEXEC/lmtpd $C -a -U 100" listen="$LISTEN_ADDR:$LMTP_PORT" prefork=0 maxchild=50
}
EVENTS {
  checkpoint cmd="$LIBEXEC/ctl_cyrusdb $C -c" period=30
}
DAEMON {
  idled    cmd="$X/idled $C"
  squatter cmd="$X/squatter $C -R" 
}
CF
  local i
  pw() { echo "$2" | saslpasswd2 -f "$DIR/etc/sasldb2" -u mail.mailtee.test -c -p "$1"; }
  pw cyrus cyrus; pw alice alice
  for i in $(seq -f %04g 1 "$USERS"); do pw "user$i" "pass$i"; done
  chown -R cyrus:mail "$DIR"/{etc,conf,spool,sieve,search,run}
  chmod 640 "$DIR/etc/sasldb2"
}

case $ACTION in
  start)
    already_running; make_traversable; port_free "$IMAP_PORT" "$HTTP_PORT" "$LMTP_PORT" "$POP3_PORT"
    configure
    ulimit -n 8192 2>/dev/null || true
    spawn master $LIBEXEC/master -C "$DIR/etc/imapd.conf" -M "$DIR/etc/cyrus.conf" -p "$DIR/run/master.pid" -D
    wait_port "$LISTEN_ADDR" "$HTTP_PORT" "$DIR/log/master.out"
    wait_port "$LISTEN_ADDR" "$IMAP_PORT" "$DIR/log/master.out"
    # a first login creates each account's mailboxes (autocreate)
    for u in alice:alice $(for i in $(seq -f %04g 1 "$USERS"); do echo "user$i:pass$i"; done); do
      curl -s -m 20 --url "imap://$LISTEN_ADDR:$IMAP_PORT" -u "$u" -X NOOP >/dev/null || echo "cyrus.sh: warning: login of ${u%%:*} failed" >&2
    done
    echo "cyrus.sh: up"
    say_env IMAP="$LISTEN_ADDR:$IMAP_PORT" IMAPS="$LISTEN_ADDR:$IMAPS_PORT" POP3="$LISTEN_ADDR:$POP3_PORT" LMTP="$LISTEN_ADDR:$LMTP_PORT" \
      POP3S="$LISTEN_ADDR:$POP3S_PORT" SIEVE="$LISTEN_ADDR:$SIEVE_PORT" HTTP="$LISTEN_ADDR:$HTTP_PORT" HTTPS="$LISTEN_ADDR:$HTTPS_PORT" \
      JMAP="http://$LISTEN_ADDR:$HTTP_PORT/.well-known/jmap" JMAPS="https://localhost:$HTTPS_PORT/.well-known/jmap" \
      JMAP_USER=alice JMAP_PASS=alice CA="$DIR/tls/ca.pem" CYRUS_CONF="$DIR/etc/imapd.conf" ;;
  stop) stop_one master TERM; stop_all; echo "cyrus.sh: stopped" ;;
  status) status_all ;;
esac
