-- wrk: the routes of hosts/server.c in turn, the cheap ones more often.
local paths = { "/fast", "/fast", "/cpu", "/lock", "/lock", "/sleep", "/ask", "/locks" }
local turn = 0
request = function()
	turn = turn + 1
	return wrk.format("GET", paths[turn % #paths + 1])
end
