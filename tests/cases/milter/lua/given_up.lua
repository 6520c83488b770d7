-- A message that is given up leaves nothing; the next one on the connection is captured.
conn = mt.connect("inet:" .. PORT .. "@127.0.0.1")
if conn == nil then error "cannot connect" end
mt.conninfo(conn, "client.example", "192.0.2.1")
mt.helo(conn, "client.example")
mt.mailfrom(conn, "<given-up@example.org>")
mt.rcptto(conn, "<b@example.org>")
mt.header(conn, "Subject", "given up")
mt.bodystring(conn, "half of it")
mt.abort(conn)
mt.mailfrom(conn, "<next@example.org>")
mt.rcptto(conn, "<b@example.org>")
mt.header(conn, "Subject", "the next")
mt.bodystring(conn, "whole\r\n")
mt.eom(conn)
if mt.getreply(conn) ~= SMFIR_CONTINUE then error("heard " .. mt.getreply(conn)) end
mt.disconnect(conn)
