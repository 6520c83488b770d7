-- One message as any MTA tells it. miltertest puts the white space before each value.
conn = mt.connect("inet:" .. PORT .. "@127.0.0.1")
if conn == nil then error "cannot connect" end
mt.macro(conn, SMFIC_CONNECT, "j", "mx.example", "{client_port}", "2525")
if mt.conninfo(conn, "client.example", "192.0.2.1") ~= nil then error "conninfo" end
if mt.helo(conn, "client.example") ~= nil then error "helo" end
mt.macro(conn, SMFIC_MAIL, "i", "QUEUEID1", "{auth_authen}", "jo")
if mt.mailfrom(conn, "<a@example.org>", "SIZE=100", "BODY=8BITMIME") ~= nil then error "mailfrom" end
if mt.rcptto(conn, "<b@example.org>", "NOTIFY=NEVER") ~= nil then error "rcptto" end
if mt.rcptto(conn, "<c@example.org>") ~= nil then error "second rcptto" end
if mt.header(conn, "Subject", "folded\n\tonce") ~= nil then error "header" end
if mt.header(conn, "X-TIGHT", "yes") ~= nil then error "second header" end
if mt.bodystring(conn, "one\r\n") ~= nil then error "body" end
if mt.bodystring(conn, "two\r\n") ~= nil then error "second body" end
if mt.eom(conn) ~= nil then error "eom" end
if mt.getreply(conn) ~= SMFIR_CONTINUE then error("heard " .. mt.getreply(conn)) end
-- read-only: nothing was added, changed, deleted or quarantined
if mt.eom_check(conn, MT_HDRADD, "X-Any") then error "a header was added" end
if mt.eom_check(conn, MT_BODYCHANGE) then error "the body was replaced" end
if mt.eom_check(conn, MT_QUARANTINE) then error "quarantined" end
mt.disconnect(conn)
