"""A whole session with imaplib; each line that the server says, in order. See imap_kit.py."""

import imaplib
import re

import imap_kit
from imap_kit import context, host, large, mail, normal, note, password, port, say, shown, tls, user, varied

imaplib.Debug = 0
# of BINARY[] only what was read before: it is put in other words
WHOLE = re.compile(rb"(?:BODY\[\]|RFC822) \{\d+\}\r\n$")


class Written:
    """Writes down what the server says, literals as digests; a message shown whole is noted."""

    last = b""

    def readline(self):
        line = super().readline()
        self.last = line
        tag = getattr(self, "tagpre", b"")
        said = line.replace(tag, b"TAG") if tag else line
        say("S:", ascii(normal(said))[2:-1])
        return line

    def read(self, size):
        data = super().read(size)
        say("S literal:", shown(data))
        if WHOLE.search(self.last):
            note(data)
        return data


class Plain(Written, imaplib.IMAP4):
    pass


class Secured(Written, imaplib.IMAP4_SSL):
    pass


def connect():
    if tls == "implicit":
        client = Secured(host, port, ssl_context=context, timeout=60)
    else:
        client = Plain(host, port, timeout=60)
    if tls == "starttls":
        client.starttls(context)
    return client


def attempt(client, what, *arguments):
    """Refusals are answers like any other."""
    say("C:", what, *[normal(str(a).encode()).decode() for a in arguments if not callable(a)])
    try:
        method = getattr(client, what)
        return method(*arguments)
    except imaplib.IMAP4.abort:
        raise
    except imaplib.IMAP4.error as error:
        say("error:", type(error).__name__)
        return "NO", []


def raw(client, *pieces):
    """A command in pieces, each but the last ending in a literal's marker: without `+` the server is waited for."""
    tag = client._new_tag()
    say("C:", *[normal(piece[:100]) for piece in pieces])
    client.send(tag + b" " + pieces[0] + b"\r\n")
    for before, piece in zip(pieces, pieces[1:]):
        while not before.endswith(b"+}"):
            line = client.readline()
            if line.startswith(b"+"):
                break
            if line.startswith(tag):
                return False
        client.send(piece + b"\r\n")
    while True:
        line = client.readline()
        if line.startswith(tag):
            return line.startswith(tag + b" OK")
        literal = re.search(rb"\{(\d+)\}\r\n$", line)
        while literal and not re.match(rb"\S+ (OK|NO|BAD)", line):
            client.read(int(literal[1]))
            line = client.readline()
            literal = re.search(rb"\{(\d+)\}\r\n$", line)


client = connect()
attempt(client, "login", user, "wrong")
attempt(client, "noop")
attempt(client, "logout")

client = connect()
attempt(client, "authenticate", "PLAIN", lambda _: f"\0{user}\0{password}".encode())
attempt(client, "logout")
if "AUTH=CRAM-MD5" in client.capabilities:
    client = connect()
    attempt(client, "login_cram_md5", user, password)
    attempt(client, "logout")

client = connect()
is_courier = b"Courier" in client.welcome
client.login(user, password)
client.capability()
capabilities = client.capabilities = tuple(client.untagged_responses.get("CAPABILITY", client.capabilities))
can = normal(b"* CAPABILITY " + client.capability()[1][-1] + b"\r").decode().upper().split()
spaces = client.namespace()[1][0].decode()
prefix, separator = re.match(r'\(\("([^"]*)" "(.)"', spaces).groups()


def folder(*levels):
    name = prefix + separator.join(levels)
    return f'"{name}"'


if "ID" in can:
    raw(client, b'ID ("name" "imaplib" "version" "3")')

# Folders, those in other scripts too (RFC 3501 section 5.1.3).
work, year, umlaut, other = folder("Work"), folder("Work", "2015"), folder("Entw&APw-rfe &- more"), folder("Other")
for name in [work, year, umlaut, other, work]:
    attempt(client, "create", name)
for name in [work, year, umlaut]:
    attempt(client, "subscribe", name)
attempt(client, "list")
attempt(client, "list", '""', '"%"')
attempt(client, "lsub")
attempt(client, "unsubscribe", year)
attempt(client, "lsub", '""', "*")
attempt(client, "rename", other, folder("Renamed"))
if not is_courier:  # which says BYE to that
    attempt(client, "rename", other, folder("Nothing"))
if "LIST-STATUS" in can:
    raw(client, b'LIST "" "*" RETURN (SUBSCRIBED CHILDREN STATUS (MESSAGES UNSEEN))')
if "SPECIAL-USE" in can:
    raw(client, b'LIST (SPECIAL-USE) "" "*"')
for name in [work, "INBOX", folder("Nothing")]:
    attempt(client, "status", name, "(MESSAGES RECENT UIDNEXT UIDVALIDITY UNSEEN)")


def append(name, flags, date, message):
    client.literal = message
    words = [word for word in (name, flags, date) if word]
    if attempt(client, "_simple_command", "APPEND", *words)[0] == "OK":
        note(message)


# What is saved: everywhere, empty, large, several at once, put together.
for number, (message, flags, date) in enumerate(varied()):
    append([work, "INBOX"][number % 2], flags, date, message)
    append("INBOX", None, date, message)
append(folder("Nothing"), None, None, mail(20))
append(umlaut, None, None, mail(21))
append(umlaut, None, None, b"")
append(umlaut, None, None, b"\r\n")
append(umlaut, r"(\Seen)", '"no date"', mail(22))
append(year, None, None, large(23, 30_000_000))
several = [mail(number, "several") for number in range(30, 34)]
if "MULTIAPPEND" in can:
    marks = [b" (\\Seen) {%d}" % len(message) for message in several]
    pieces = [b"APPEND " + work.encode() + marks[0], *map(b"".join, zip(several, marks[1:])), several[-1]]
    if raw(client, *pieces):
        for message in several:
            note(message)
if "LITERAL+" in can:
    message = mail(35, "without waiting")
    if raw(client, b"APPEND INBOX {%d+}" % len(message), message):
        note(message)
if "CATENATE" in can:
    begin, end = mail(36, "put together"), b"the end\r\n"
    pieces = [b"APPEND INBOX CATENATE (TEXT {%d}" % len(begin), begin + b" TEXT {%d}" % len(end), end + b")"]
    if raw(client, *pieces):
        note(begin + end)
    raw(client, b'APPEND INBOX CATENATE (TEXT {%d}' % len(begin), begin + b' URL "/INBOX/;UID=1/;SECTION=TEXT")')
if "BINARY" in can:
    message = mail(37, "binary", "\0zero\r\n", "MIME-Version: 1.0\r\nContent-Transfer-Encoding: binary\r\n")
    if raw(client, b"APPEND %s ~{%d}" % (year.encode(), len(message)), message):
        note(message)

# What is read, and what is asked of it.
attempt(client, "select", work)
attempt(client, "select", folder("Nothing"))
attempt(client, "select", "INBOX", True)
attempt(client, "select", "INBOX")
for items in [
    "FLAGS",
    "(UID FLAGS INTERNALDATE RFC822.SIZE)",
    "ALL",
    "FULL",
    "ENVELOPE",
    "BODYSTRUCTURE",
    "BODY.PEEK[HEADER]",
    "BODY.PEEK[HEADER.FIELDS (SUBJECT FROM)]",
    "BODY.PEEK[HEADER.FIELDS.NOT (SUBJECT FROM)]",
    "RFC822.HEADER",
    "BODY.PEEK[TEXT]",
    "BODY.PEEK[1]",
    "BODY.PEEK[2]",
    "BODY.PEEK[2.MIME]",
    "BODY.PEEK[3.HEADER]",
    "BODY.PEEK[]<0.100>",
    "BODY.PEEK[]<100.1000>",
    "(BODY.PEEK[HEADER] BODY.PEEK[1]<0.20> UID)",
]:
    attempt(client, "fetch", "1:*", items)
for items in ["BODY.PEEK[]", "(UID RFC822 FLAGS)", "(BODY[] UID INTERNALDATE)", "(FLAGS BODY.PEEK[TEXT] UID BODY.PEEK[])"]:
    attempt(client, "fetch", "2:4", items)
    attempt(client, "uid", "fetch", "5:6,8,10:*", items)
attempt(client, "fetch", "1000", "RFC822")
attempt(client, "uid", "fetch", "1000", "RFC822")
attempt(client, "fetch", "1", "(NONSENSE)")
for extension, items in [
    ("PREVIEW", "PREVIEW"),
    ("SAVEDATE", "UID"),
    ("OBJECTID", "EMAILID"),
    ("BINARY", "(BINARY.PEEK[1] BINARY.SIZE[1])"),
    ("BINARY", "(UID BINARY.PEEK[])"),
]:
    if extension in can:
        attempt(client, "uid", "fetch", "1:7", items)
if "URLAUTH" in can:
    raw(client, b'GENURLAUTH "imap://localhost/INBOX;UID=1" INTERNAL')

for criteria in [
    ("ALL",),
    ("UNSEEN", "UNDELETED"),
    ("SUBJECT", '"re: a"'),
    ("OR", "FLAGGED", "KEYWORD", "work"),
    ("SINCE", "1-Jan-2014", "SMALLER", "400"),
    ("BODY", '"number 8"'),
    ("HEADER", "Message-ID", '"<5@"'),
    ("UID", "3:5", "NOT", "SEEN"),
    ("NONSENSE",),
]:
    attempt(client, "search", None, *criteria)
    attempt(client, "uid", "search", *criteria)
client.literal = "Grüße".encode()
attempt(client, "search", "UTF-8", "BODY")
if "ESEARCH" in can:
    raw(client, b"UID SEARCH RETURN (MIN MAX COUNT ALL) UNDELETED")
if "SEARCHRES" in can:
    raw(client, b"SEARCH RETURN (SAVE) UNSEEN")
    raw(client, b"FETCH $ (UID FLAGS)")
if "SORT" in can:
    for order in ["(SUBJECT)", "(REVERSE DATE)", "(SIZE SUBJECT)"]:
        attempt(client, "sort", order, "UTF-8", "ALL")
    attempt(client, "uid", "sort", "(FROM REVERSE SIZE)", "US-ASCII", "UNDELETED")
for algorithm in ["REFERENCES", "ORDEREDSUBJECT"]:
    if f"THREAD={algorithm}" in can:
        attempt(client, "thread", algorithm, "UTF-8", "ALL")

# What changes.
attempt(client, "store", "1:2", "+FLAGS", r"(\Flagged)")
attempt(client, "store", "1:2", "-FLAGS.SILENT", r"(\Seen)")
attempt(client, "uid", "store", "3", "FLAGS", r"(\Answered later)")
attempt(client, "store", "1", "+FLAGS", r"(\Recent)")
attempt(client, "copy", "1:3", work)
attempt(client, "uid", "copy", "2,4", umlaut)
attempt(client, "copy", "1", folder("Nothing"))
if "MOVE" in can:
    raw(client, b"UID MOVE 4:5 " + work.encode())
if "CONDSTORE" in can:
    raw(client, b"STORE 1 (UNCHANGEDSINCE 1) +FLAGS (\\Draft)")
attempt(client, "store", "6", "+FLAGS", r"(\Deleted)")
if "UIDPLUS" in can:
    attempt(client, "uid", "expunge", "1:3")
attempt(client, "expunge")
attempt(client, "store", "1", "+FLAGS", r"(\Deleted)")
attempt(client, "check")
attempt(client, "close")
attempt(client, "fetch", "1", "FLAGS")
if "UNSELECT" in can:
    attempt(client, "select", work)
    attempt(client, "unselect")
if "QRESYNC" in can:
    raw(client, b"ENABLE QRESYNC")
    raw(client, b"SELECT INBOX")
    raw(client, b"UID FETCH 1:* (FLAGS) (CHANGEDSINCE 1 VANISHED)")
    raw(client, b"UID STORE 2 +FLAGS (\\Deleted)")
    raw(client, b"EXPUNGE")

# Idling while somebody else saves something, seen by whoever idles.
if "IDLE" in can:
    attempt(client, "select", "INBOX")
    second = connect()
    second.login(user, password)
    tag = client._new_tag()
    client.send(tag + b" IDLE\r\n")
    while not client.readline().startswith(b"+"):
        pass
    message = mail(50, "while it idles")
    second.literal = message
    if attempt(second, "_simple_command", "APPEND", "INBOX")[0] == "OK":
        note(message)
    # Courier looks once a minute
    while not is_courier and not client.readline().endswith(b"EXISTS\r\n"):
        pass
    client.send(b"DONE\r\n")
    while not client.readline().startswith(tag):
        pass
    attempt(client, "noop")
    attempt(client, "fetch", "*", "(UID RFC822)")
    attempt(second, "logout")

# Commands in a row without waiting for any; behind SELECT each waits for those before it.
say("C: a pipeline")
commands = [b"SELECT " + work.encode(), b"UID FETCH 1:* (FLAGS)", b"SELECT INBOX", b"FETCH 1:2 BODY.PEEK[]", b"UNSELECT", b"SELECT " + work.encode()]
tags = [client._new_tag() for _ in commands]
client.send(b"".join(tag + b" " + command + b"\r\n" for tag, command in zip(tags, commands)))
line = b""
while not line.startswith(tags[-1]):
    line = client.readline()
    literal = re.search(rb"\{(\d+)\}\r\n$", line)
    if literal:
        client.read(int(literal[1]))

if "QUOTA" in can:
    attempt(client, "getquotaroot", "INBOX")
    attempt(client, "getquota", '"User quota"')
    attempt(client, "setquota", '"User quota"', "(STORAGE 512)")
if "ACL" in can:
    attempt(client, "getacl", work)
    attempt(client, "myrights", work)
    attempt(client, "setacl", work, "guest", "lr")
    attempt(client, "getacl", work)
    attempt(client, "deleteacl", work, "guest")
    attempt(client, "proxyauth", "nobody")
if "METADATA" in can:
    raw(client, b'SETMETADATA %s (/private/comment {5}' % work.encode(), b'a\r\nbc)')
    raw(client, b'GETMETADATA %s (/private/comment)' % work.encode())
if "UTF8=ACCEPT" in can:
    attempt(client, "enable", "UTF8=ACCEPT")
    name = (prefix + "Größe").encode()
    raw(client, b'CREATE "%s"' % name)
    raw(client, b'LIST "" "*"')
    message = mail(60, "Größe in UTF-8")
    if raw(client, b'APPEND "%s" UTF8 (~{%d}' % (name, len(message)), message + b")"):
        note(message)
    raw(client, b'SELECT "%s"' % name)
    raw(client, b"FETCH 1:* (UID BODY.PEEK[])")
if "NOTIFY" in can:
    raw(client, b"NOTIFY SET (SELECTED (MessageNew MessageExpunge FlagChange))")
attempt(client, "xatom", "XNONSENSE")
attempt(client, "delete", folder("Renamed"))
attempt(client, "delete", folder("Renamed"))
attempt(client, "noop")
attempt(client, "logout")
