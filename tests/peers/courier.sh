#!/usr/bin/env bash
# courier.sh - Courier IMAP + POP3 inside DIR, for protocol quirks (INBOX. prefix, "." separator, no LITERAL+ pre-auth, ...). Needs root.
# Usage:  [VAR=value...] courier.sh start|stop|status DIR
# Env:    IMAP_PORT (17143)   POP3_PORT (17110)   USERS (3)  user0001/pass0001 ... and alice/alice
#         TLS=1  STARTTLS and STLS, and TLS from the first byte on IMAPS_PORT (17993) and POP3S_PORT (17995)   EXTRA_ENV "NAME=value ..." (imapd settings)
# /etc/courier and /run/courier are compiled in, so it runs in a mount namespace of its own with DIR bound over them.
# Extracted from Debian's courier-imap/-pop/-base to $MAILTEE_PEERS_PREFIX/courier (conflicts with dovecot-imapd).
source "$(dirname "$0")/lib.sh"
peer_args "$@"; need_root; need unshare makeuserdb
X=$PEERS_PREFIX/courier/usr; AUTHD=/usr/lib/courier/courier-authlib/authdaemond
[ -x "$X/lib/courier/courier/imaplogin" ] && [ -x $AUTHD ] || die "Courier not found; run install.sh mailbox"
IMAP_PORT=${IMAP_PORT:-17143}; POP3_PORT=${POP3_PORT:-17110}; USERS=${USERS:-3}; MAIL_UID=5001
IMAPS_PORT=${IMAPS_PORT:-17993}; POP3S_PORT=${POP3S_PORT:-17995}
case $ACTION in
  start)
    already_running; port_free "$IMAP_PORT" "$POP3_PORT"; make_traversable
    mkdir -p "$DIR/etc" "$DIR/run/authdaemon" "$DIR/mail" /etc/courier /run/courier
    : > "$DIR/etc/userdb"; chmod 600 "$DIR/etc/userdb"
    for u in alice:alice $(for i in $(seq -f %04g 1 "$USERS"); do echo "user$i:pass$i"; done); do
      n=${u%%:*}; home=$DIR/mail/$n
      if [ ! -d "$home/Maildir" ]; then mkdir -p "$home"; "$X/bin/maildirmake.courier" "$home/Maildir"; fi
      printf '%s\thome=%s|mail=%s/Maildir|uid=%s|gid=%s|systempw=%s\n' "$n" "$home" "$home" $MAIL_UID $MAIL_UID "$(openssl passwd -1 "${u#*:}")" >> "$DIR/etc/userdb"
    done
    chown -R $MAIL_UID:$MAIL_UID "$DIR/mail"
    printf 'authmodulelist="authuserdb"\nauthmodulelistorig="authuserdb"\ndaemons=3\nauthdaemonvar=/run/courier/authdaemon\nDEBUG_LOGIN=0\n' > "$DIR/etc/authdaemonrc"
    printf 'PREFIX=/usr\n' > "$DIR/etc/authlibrc"
    # imapd asks gamin, which must know its user by name: else each login waits 1.2 s for it in vain
    { cat /etc/passwd; echo "courier-peer:x:$MAIL_UID:$MAIL_UID::/:/bin/false"; } > "$DIR/etc/passwd"
    { cat <<'SH'
set -e
mount --bind "$1/etc" /etc/courier; mount --bind "$1/run" /run/courier; mount --bind "$1/etc/passwd" /etc/passwd
export GAM_CLIENT_ID=${1##*/}
makeuserdb
set -a; . /etc/courier/authdaemonrc; set +a
SH
      echo "$AUTHD & A=\$!"
      cat <<'SH'
export IMAP_CAPABILITY="IMAP4rev1 UIDPLUS CHILDREN NAMESPACE THREAD=ORDEREDSUBJECT THREAD=REFERENCES SORT QUOTA IDLE"
export IMAP_KEYWORDS=1 IMAP_ACL=1 IMAP_IDLE_TIMEOUT=60 IMAP_MAILBOX_SANITY_CHECK=1 IMAP_CHECK_ALL_FOLDERS=0 IMAP_UMASK=022 IMAP_ULIMITD=131072
export IMAP_USELOCKS=${IMAP_USELOCKS:-0} IMAP_ENHANCEDIDLE=0 IMAP_TRASHFOLDERNAME=Trash IMAP_EMPTYTRASH=Trash:7 TLS_PROTOCOL= AUTHMODULES=authdaemon MAILDIRPATH=Maildir
SH
      [ -z "${EXTRA_ENV:-}" ] || echo "export $EXTRA_ENV"
      if [ "${TLS:-}" = 1 ]; then
        make_cert "$DIR/tls"
        echo "export IMAP_STARTTLS=YES POP3_STARTTLS=YES COURIERTLS=$X/bin/couriertls TLS_CERTFILE=$DIR/tls/combined.pem TLS_PROTOCOL=TLS1_2++"
      fi
      cat <<SH
i=0; until [ -S /run/courier/authdaemon/socket ] || [ \$i -ge 50 ]; do sleep 0.1; i=\$((i+1)); done
"$X/sbin/couriertcpd" -address=$LISTEN_ADDR -maxprocs=400 -maxperip=400 -nodnslookup -noidentlookup $IMAP_PORT "$X/lib/courier/courier/imaplogin" "$X/bin/imapd" Maildir & I=\$!
"$X/sbin/couriertcpd" -address=$LISTEN_ADDR -maxprocs=400 -maxperip=400 -nodnslookup -noidentlookup $POP3_PORT "$X/lib/courier/courier/courierpop3login" "$X/lib/courier/courier/courierpop3d" Maildir & P=\$!
$(if [ "${TLS:-}" = 1 ]; then cat <<TLS
"$X/sbin/couriertcpd" -address=$LISTEN_ADDR -maxprocs=400 -maxperip=400 -nodnslookup -noidentlookup $IMAPS_PORT "$X/bin/couriertls" -server -tcpd "$X/lib/courier/courier/imaplogin" "$X/bin/imapd" Maildir & J=\$!
"$X/sbin/couriertcpd" -address=$LISTEN_ADDR -maxprocs=400 -maxperip=400 -nodnslookup -noidentlookup $POP3S_PORT "$X/bin/couriertls" -server -tcpd "$X/lib/courier/courier/courierpop3login" "$X/lib/courier/courier/courierpop3d" Maildir & Q=\$!
TLS
fi)
trap 'kill \$A \$I \$P \$J \$Q 2>/dev/null; exit 0' TERM INT
wait
SH
    } > "$DIR/run.sh"
    spawn courier unshare --mount --propagation private bash "$DIR/run.sh" "$DIR"
    wait_port "$LISTEN_ADDR" "$IMAP_PORT" "$DIR/log/courier.out"; wait_port "$LISTEN_ADDR" "$POP3_PORT" "$DIR/log/courier.out"
    echo "courier.sh: up"; say_env IMAP="$LISTEN_ADDR:$IMAP_PORT" POP3="$LISTEN_ADDR:$POP3_PORT" ${TLS:+IMAPS="$LISTEN_ADDR:$IMAPS_PORT" POP3S="$LISTEN_ADDR:$POP3S_PORT" CA="$DIR/tls/ca.pem"} MAIL="$DIR/mail" ;;
  stop)
    stop_all
    # what imapd has started of gamin's would stay for half a minute
    for p in $(pgrep -u $MAIL_UID -x gam_server); do
      if grep -qzx "GAM_CLIENT_ID=${DIR##*/}" "/proc/$p/environ"; then kill "$p"; fi
    done
    echo "courier.sh: stopped" ;;
  status) status_all ;;
esac
