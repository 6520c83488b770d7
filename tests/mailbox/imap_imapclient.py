"""A whole session with IMAPClient; each answer as it gives it. See imap_kit.py."""

import datetime
import pprint
import threading

import imapclient
import imap_kit
from imap_kit import ca, context, host, large, mail, normal, note, password, port, say, shown, tls, user, varied
from imapclient.exceptions import IMAPClientError

YEAR = datetime.datetime(2021, 1, 1)


def plain(answer):
    """An answer without what is this account's alone, in an order of its own."""
    if isinstance(answer, bytes):
        return shown(normal(answer))
    if isinstance(answer, str):
        return normal(answer.encode()).decode()
    if isinstance(answer, datetime.datetime):
        return "NOW" if answer.replace(tzinfo=None) > YEAR else str(answer)
    if isinstance(answer, dict):
        pairs = [(plain(key), "V" if key in (b"UIDVALIDITY", b"MAILBOXID") else plain(value)) for key, value in answer.items()]
        return sorted(pairs, key=str)
    if isinstance(answer, (list, tuple)) and type(answer) in (list, tuple):
        return [plain(part) for part in answer]
    return normal(str(answer).encode()).decode()


def attempt(client, what, *arguments, **named):
    """Refusals are answers like any other."""
    said = [shown(argument) if isinstance(argument, bytes) else argument for argument in arguments if argument is not context]
    say("C:", what, plain(said), plain(named))
    try:
        answer = getattr(client, what)(*arguments, **named)
    except IMAPClientError as error:
        say("error:", type(error).__name__, plain(str(error)))
        return None
    pprint.pp(plain(answer), width=150)
    return answer


def connect():
    client = imapclient.IMAPClient(host, port, ssl=tls == "implicit", ssl_context=context if tls == "implicit" else None, timeout=60)
    say(plain(client.welcome))
    if tls == "starttls":
        attempt(client, "starttls", context)
    return client


def append(client, folder, message, flags=(), time=None):
    if attempt(client, "append", folder, message, flags, time) is not None:
        note(message)


def read(client, messages, items):
    for answer in (attempt(client, "fetch", messages, items) or {}).values():
        for item in (b"BODY[]", b"RFC822"):
            if answer.get(item):
                note(answer[item])


client = connect()
attempt(client, "login", user, "wrong")
attempt(client, "logout")
with connect() as client:
    attempt(client, "plain_login", user, password)
    attempt(client, "noop")

client = connect()
is_courier = b"Courier" in client.welcome
attempt(client, "login", user, password)
can = {capability.decode().upper() for capability in client.capabilities()}
say(plain(b"* " + b" ".join(client.capabilities())))
if "ID" in can:
    attempt(client, "id_", {"name": "IMAPClient"})
spaces = client.namespace()
prefix, separator = spaces.personal[0]


def folder(*levels):
    return prefix + separator.join(levels)


work, year, umlaut, other = folder("Work"), folder("Work", "2015"), folder("Entwürfe & 会議"), folder("Other")
for name in [work, year, umlaut, other, work]:
    attempt(client, "create_folder", name)
for name in [work, umlaut]:
    attempt(client, "subscribe_folder", name)
attempt(client, "list_folders")
attempt(client, "list_folders", "", "%")
attempt(client, "list_sub_folders")
attempt(client, "unsubscribe_folder", umlaut)
attempt(client, "rename_folder", other, folder("Renamed"))
attempt(client, "folder_exists", other)
attempt(client, "folder_exists", umlaut)
attempt(client, "folder_status", work)
if "SPECIAL-USE" in can:
    attempt(client, "find_special_folder", b"\\Sent")
if "XLIST" in can:
    attempt(client, "xlist_folders")

then = datetime.datetime(2014, 5, 6, 7, 8, 9, tzinfo=imapclient.fixed_offset.FixedOffset(60))
for number, (message, flags, _) in enumerate(varied()):
    append(client, "INBOX", message, flags.strip("()").split() if flags else (), then)
    append(client, [work, umlaut][number % 2], message, (), then)
append(client, folder("Nothing"), mail(20))
append(client, year, large(23, 1_000_000))
if "MULTIAPPEND" in can and "LITERAL+" in can:
    several = [mail(number, "several") for number in range(30, 34)]
    if attempt(client, "multiappend", work, [{"msg": message, "flags": [imapclient.SEEN], "date": then} for message in several]):
        for message in several:
            note(message)

attempt(client, "select_folder", work, readonly=True)
attempt(client, "select_folder", folder("Nothing"))
attempt(client, "select_folder", "INBOX")
everything = client.search()
for items in [
    "FLAGS",
    ["UID", "INTERNALDATE", "RFC822.SIZE"],
    "ALL",
    "FULL",
    ["ENVELOPE"],
    ["BODYSTRUCTURE"],
    ["BODY.PEEK[HEADER]"],
    ["BODY.PEEK[HEADER.FIELDS (SUBJECT FROM TO)]", "FLAGS"],
    ["BODY.PEEK[TEXT]"],
    ["BODY.PEEK[1]", "BODY.PEEK[2.MIME]"],
    ["BODY.PEEK[]<0.64>"],
    ["BODY.PEEK[]<64.4096>"],
    ["BODY.PEEK[]"],
]:
    read(client, everything[:5] if items == ["BODY.PEEK[]"] else everything, items)
read(client, [6, 8, 1000], ["RFC822", "FLAGS"])
read(client, [9, 10], ["BODY[]", "ENVELOPE"])
client.use_uid = False
read(client, [1, 7], ["BODY.PEEK[]"])
attempt(client, "search", "UNDELETED")
client.use_uid = True
client.normalise_times = False
attempt(client, "fetch", [1, 2, 3], ["INTERNALDATE"])
attempt(client, "get_flags", [1, 2, 3])

for criteria, charset in [
    ("ALL", None),
    (["UNSEEN", "UNDELETED"], None),
    (["SUBJECT", "re: a"], None),
    (["OR", "FLAGGED", ["NOT", "SEEN"]], None),
    (["SINCE", datetime.date(2014, 1, 1), "SMALLER", 400], None),
    (["BODY", "привет"], "UTF-8"),
    (["NONSENSE"], None),
]:
    attempt(client, "search", criteria, charset)
if "SORT" in can:
    attempt(client, "sort", ["SUBJECT"])
    attempt(client, "sort", ["REVERSE SIZE", "SUBJECT"], ["BODY", "Grüße"], "UTF-8")
for algorithm in ["REFERENCES", "ORDEREDSUBJECT"]:
    if f"THREAD={algorithm}" in can:
        attempt(client, "thread", algorithm)
if "X-GM-EXT-1" in can:
    attempt(client, "gmail_search", "a")

attempt(client, "add_flags", [1, 2], [imapclient.FLAGGED, b"later"])
attempt(client, "remove_flags", [1], imapclient.SEEN)
attempt(client, "set_flags", [3], [imapclient.ANSWERED], silent=True)
attempt(client, "copy", [1, 2, 3], umlaut)
attempt(client, "copy", [1], folder("Nothing"))
if "MOVE" in can:
    attempt(client, "move", [4, 5], work)
attempt(client, "delete_messages", [6])
if "UIDPLUS" in can:
    attempt(client, "uid_expunge", [6])
attempt(client, "delete_messages", [8])
attempt(client, "expunge")
attempt(client, "close_folder")
if "UNSELECT" in can:
    attempt(client, "select_folder", work)
    attempt(client, "unselect_folder")

attempt(client, "select_folder", "INBOX")
if "IDLE" in can:
    second = connect()
    attempt(second, "login", user, password)
    attempt(client, "idle")
    message = mail(50, "while it idles")
    append(second, "INBOX", message)
    seen = []
    # Courier looks once a minute
    while not is_courier and not any(answer[1] == b"EXISTS" for answer in seen):
        seen += client.idle_check(timeout=60)
    say("idle:", plain(seen))
    attempt(client, "idle_done")
    attempt(client, "noop")
    read(client, client.search(["SUBJECT", "while it"]), ["RFC822"])
    attempt(second, "logout")

if "QUOTA" in can:
    attempt(client, "get_quota", "INBOX")
    attempt(client, "get_quota_root", "INBOX")
    attempt(client, "set_quota", [imapclient.imapclient.Quota("User quota", "STORAGE", 0, 512)])
if "ACL" in can:
    attempt(client, "getacl", work)
    attempt(client, "setacl", work, "guest", "lr")
    attempt(client, "getacl", work)
    attempt(client, "setacl", work, "guest", "")
if "ENABLE" in can:
    attempt(client, "enable", "CONDSTORE", "UTF8=ACCEPT")
attempt(client, "delete_folder", folder("Renamed"))
attempt(client, "delete_folder", folder("Renamed"))
attempt(client, "list_folders")
attempt(client, "logout")
