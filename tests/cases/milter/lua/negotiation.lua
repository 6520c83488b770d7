-- What is chosen is a part of what is offered, whatever that is.
function offers(version, actions, steps)
  conn = mt.connect("inet:" .. PORT .. "@127.0.0.1")
  if conn == nil then error "cannot connect" end
  -- it sends them the other way round than its manual has them
  if mt.negotiate(conn, version, steps, actions) ~= nil then error "negotiate" end
  return conn
end

conn = offers(2, SMFIF_ADDHDRS, 0)
if mt.test_action(conn, SMFIF_ADDHDRS) then error "it wants to add headers" end
-- nothing was agreed on, so each event has its answer
mt.conninfo(conn, "client.example", "192.0.2.1")
if mt.getreply(conn) ~= SMFIR_CONTINUE then error "conninfo has no answer" end
mt.helo(conn, "client.example")
if mt.getreply(conn) ~= SMFIR_CONTINUE then error "helo has no answer" end
mt.mailfrom(conn, "<old@example.org>")
if mt.getreply(conn) ~= SMFIR_CONTINUE then error "mailfrom has no answer" end
mt.rcptto(conn, "<b@example.org>")
if mt.getreply(conn) ~= SMFIR_CONTINUE then error "rcptto has no answer" end
mt.header(conn, "Subject", "version 2")
if mt.getreply(conn) ~= SMFIR_CONTINUE then error "header has no answer" end
mt.bodystring(conn, "body\r\n")
if mt.getreply(conn) ~= SMFIR_CONTINUE then error "body has no answer" end
mt.eom(conn)
if mt.getreply(conn) ~= SMFIR_CONTINUE then error("eom: heard " .. mt.getreply(conn)) end
mt.disconnect(conn)

-- this MTA would keep the body to itself, and tells white space; no header needs an answer
conn = offers(6, SMFIF_ADDHDRS + SMFIF_CHGBODY + SMFIF_QUARANTINE, SMFIP_NR_HDR + SMFIP_NOBODY + SMFIP_HDR_LEADSPC)
if mt.test_action(conn, SMFIF_ADDHDRS) then error "it wants to add headers" end
if mt.test_action(conn, SMFIF_CHGBODY) then error "it wants to replace the body" end
if mt.test_action(conn, SMFIF_QUARANTINE) then error "it wants to quarantine" end
mt.conninfo(conn, "client.example", "192.0.2.1")
mt.helo(conn, "client.example")
mt.mailfrom(conn, "<new@example.org>")
mt.rcptto(conn, "<b@example.org>")
if mt.header(conn, "X-Tight", "yes") ~= nil then error "header" end
if mt.bodystring(conn, "all of it\r\n") ~= nil then error "it does without the body" end
mt.eom(conn)
if mt.getreply(conn) ~= SMFIR_CONTINUE then error("eom: heard " .. mt.getreply(conn)) end
mt.disconnect(conn)
