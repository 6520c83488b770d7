#!/usr/bin/env bash
# install.sh - installs every mail peer that these scripts use (Debian 12, root), starting none; quick when all is there.
#
# Usage:  install.sh [GROUP...]      (default: all groups)
#   core        postfix dovecot (ManageSieve too) opendkim dnsmasq miltertest openssl curl swaks python3 systemd  what most tests need
#   monitoring  prometheus prometheus-alertmanager
#   link        haproxy iproute2                                           benchmarks, the slow link
#   browser     chromium                                                   screenshots of the pages
#   cyrus       cyrus-common cyrus-caldav (JMAP httpd); imapd and pop3d extracted to $MAILTEE_PEERS_PREFIX
#   mailbox     isync offlineimap3 getmail6 fetchmail mutt tmux, nginx (mail) and perdition; courier extracted likewise
#   mtas        exim4 sendmail opensmtpd, extracted to $MAILTEE_PEERS_PREFIX (in dpkg they conflict with postfix)
# Env: MAILTEE_PEERS_PREFIX  where extracted packages go (default /opt/mailtee-peers)
#
# A temporary policy-rc.d keeps services from starting; one that is there already is left alone.
set -euo pipefail

PREFIX=${MAILTEE_PEERS_PREFIX:-/opt/mailtee-peers}
export DEBIAN_FRONTEND=noninteractive
GROUPS_WANTED=("$@"); [ $# -gt 0 ] || GROUPS_WANTED=(core monitoring link browser cyrus mailbox mtas)
want() { local g; for g in "${GROUPS_WANTED[@]}"; do [ "$g" = "$1" ] && return 0; done; return 1; }

[ "$(id -u)" = 0 ] || { echo "install.sh: must run as root" >&2; exit 1; }
mkdir -p "$PREFIX"

pkgs=()
want core       && pkgs+=(postfix dovecot-core dovecot-imapd dovecot-pop3d dovecot-lmtpd dovecot-managesieved opendkim opendkim-tools dnsmasq-base miltertest openssl curl swaks
                          libnet-ssleay-perl python3 python3-venv procps ca-certificates systemd strace)
want monitoring && pkgs+=(prometheus prometheus-alertmanager)
want link       && pkgs+=(haproxy iproute2)
want browser    && pkgs+=(chromium)
want cyrus      && pkgs+=(cyrus-common cyrus-caldav sasl2-bin libsasl2-modules)
want mailbox    && pkgs+=(isync offlineimap3 getmail6 fetchmail mutt tmux nginx-light libnginx-mod-mail haproxy perdition
                          libcourier-unicode4 courier-authlib courier-authlib-userdb gamin libgamin0 expect libgdbm6)
# shared libraries that the extracted programs need (none of them conflicts with anything)
want mtas       && pkgs+=(libgnutls-dane0 libidn12 libnsl2 libpcre2-8-0 libevent-2.1-7 liblockfile1 libwrap0 libldap-2.5-0 libdb5.3
                          libpam0g m4 make)
missing=()
for p in "${pkgs[@]}"; do
  [ "$(dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null)" = installed ] || missing+=("$p")
done
extracts=()
want cyrus && extracts+=("cyrus cyrus-imapd cyrus-pop3d")
want mailbox && extracts+=("courier courier-imap courier-base courier-pop")
want mtas  && extracts+=("exim exim4-base exim4-daemon-light" "opensmtpd opensmtpd" "sendmail sendmail-bin sendmail-base sendmail-cf")
absent=()
for e in "${extracts[@]}"; do [ -e "$PREFIX/${e%% *}/.complete" ] || absent+=("$e"); done

if [ ${#missing[@]} -gt 0 ] || [ ${#absent[@]} -gt 0 ]; then
  MADE_POLICY=
  if [ ! -e /usr/sbin/policy-rc.d ]; then
    printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d; chmod 755 /usr/sbin/policy-rc.d; MADE_POLICY=1
  fi
  cleanup() { [ -z "$MADE_POLICY" ] || rm -f /usr/sbin/policy-rc.d; }
  trap cleanup EXIT
  apt() { apt-get -y -q -o Dpkg::Options::=--force-confold -o DPkg::Lock::Timeout=300 "$@"; }
  # answers postfix's question before it is asked
  debconf-set-selections <<DC
postfix postfix/main_mailer_type select No configuration
postfix postfix/mailname string mailtee.test
DC
  apt update
  [ ${#missing[@]} -eq 0 ] || apt install --no-install-recommends "${missing[@]}"
fi

# extract NAME PKG...: unpacks packages side by side, without installing them
extract() {
  local name=$1; shift
  local d; d=$(mktemp -d)
  ( cd "$d" && chmod 777 . && apt-get -q download "$@" >/dev/null )
  mkdir -p "$PREFIX/$name"
  local deb; for deb in "$d"/*.deb; do dpkg -x "$deb" "$PREFIX/$name"; done
  rm -rf "$d"
  : > "$PREFIX/$name/.complete"
  echo "extracted $* -> $PREFIX/$name"
}
# shellcheck disable=SC2086  # each entry is a list of words
for e in "${absent[@]}"; do extract $e; done
if want mtas; then
  # the system users that those packages' own scripts would have made
  for u in Debian-exim opensmtpd opensmtpq smmta smmsp; do
    getent passwd $u >/dev/null || useradd --system --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin --user-group $u
  done
fi
echo "install.sh: done (groups: ${GROUPS_WANTED[*]}; prefix: $PREFIX)"
