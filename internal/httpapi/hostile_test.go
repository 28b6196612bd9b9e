package httpapi

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// Whatever comes, the answer is never 500, has a request id, and is an error
// of ours when it is an error.
func TestHostileRequests(t *testing.T) {
	a := newAPI(t)
	id := a.running().ID
	deep := strings.Repeat("[", 100_000)
	const head = "Host: localhost\r\nConnection: close\r\n"
	post := func(path, body string) string {
		return fmt.Sprintf("POST %s HTTP/1.1\r\n%sContent-Length: %d\r\n\r\n%s", path, head, len(body), body)
	}
	get := func(target string) string { return "GET " + target + " HTTP/1.1\r\n" + head + "\r\n" }
	for name, c := range map[string]struct {
		raw    string
		status int
	}{
		"bad percent-encoding in the query":  {get("/machines?status=%zz"), 400},
		"unfinished percent-encoding":        {get("/machines?limit=1%"), 400},
		"semicolons in the query":            {get("/machines?limit=1;offset=2"), 400},
		"NUL in a path":                      {get("/machines/%00"), 404},
		"invalid UTF-8 in a path":            {get("/machines/%ff%fe"), 404},
		"slash in an id":                     {get("/machines/a%2Fb"), 404},
		"dots in a path":                     {get("/machines/../health"), 404},
		"encoded dots in a path":             {get("/machines/%2e%2e/wait?status=running"), 404},
		"two slashes":                        {get("//machines"), 404},
		"only the prefix":                    {get("/api/v1"), 404},
		"a number beyond 64 bits":            {get("/machines?limit=" + strings.Repeat("9", 400)), 400},
		"a number that is none":              {get("/machines/" + id + "/wait?status=running&timeout=NaN"), 400},
		"an endless number":                  {get("/machines/" + id + "/wait?status=running&timeout=Inf"), 400},
		"the same parameter twice":           {get("/machines?limit=1&limit=x"), 200},
		"NUL in a file name":                 {get("/machines/" + id + "/files?path=/a%00b"), 400},
		"invalid UTF-8 in a file name":       {get("/machines/" + id + "/files?path=/%ff"), 404},
		"NUL in a reference":                 {get("/images/%00"), 404},
		"no JSON":                            {post("/machines", "name=x"), 400},
		"JSON of another shape":              {post("/machines", `[1]`), 400},
		"null":                               {post("/machines", `null`), 400},
		"two values":                         {post("/machines", `{} {}`), 400},
		"deep nesting":                       {post("/machines", deep), 400},
		"deep nesting in an upload":          {post("/machines/"+id+"/files", `{"x":`+deep), 400},
		"NUL bytes":                          {post("/machines", "\x00\x00\x00"), 400},
		"a name with NUL":                    {post("/machines", `{"name":"\u0000","vcpu_count":1,"mem_size_mib":64,"image":"alpine"}`), 400},
		"invalid UTF-8 in a body":            {post("/machines", "{\"name\":\"\xff\",\"vcpu_count\":1,\"mem_size_mib\":64,\"image\":\"alpine\"}"), 201},
		"huge numbers":                       {post("/machines", `{"name":"x","vcpu_count":1e300,"mem_size_mib":64,"image":"alpine"}`), 400},
		"a number beyond any type":           {post("/machines", `{"name":"x","vcpu_count":1e999,"mem_size_mib":64,"image":"alpine"}`), 400},
		"a huge timeout":                     {post("/machines/"+id+"/exec", `{"cmd":["echo"],"timeout":1e300}`), 200},
		"NUL in a command":                   {post("/machines/"+id+"/exec", `{"cmd":["a\u0000b"]}`), 400},
		"a body that is too large":           {post("/machines", `{"name":"`+strings.Repeat("x", 1<<20)+`"}`), 413},
		"UTF-16":                             {post("/machines", "\xff\xfe{\x00}\x00"), 400},
		"a body where none is expected":      {post("/machines/"+id+"/restart", "\x00garbage"), 200},
		"a type that is not JSON's":          {"POST /machines HTTP/1.1\r\n" + head + "Content-Type: text/xml\r\nContent-Length: 6\r\n\r\n<a></a", 400},
		"an encoding that we do not know":    {"POST /machines HTTP/1.1\r\n" + head + "Content-Encoding: br\r\nContent-Length: 4\r\n\r\n\x1b\x00\x00\x00", 400},
		"a body that breaks off":             {"POST /machines HTTP/1.1\r\n" + head + "Content-Length: 100\r\n\r\n{\"name\":", 400},
		"a broken chunk":                     {"POST /machines HTTP/1.1\r\n" + head + "Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400},
		"an upload that breaks off":          {"POST /machines/" + id + "/files HTTP/1.1\r\n" + head + "Transfer-Encoding: chunked\r\n\r\n4\r\n{\"pa\r\nzz\r\n", 400},
		"a file stream that breaks off":      {"PUT /machines/" + id + "/files?path=/x HTTP/1.1\r\n" + head + "Content-Length: 9\r\n\r\nab", 400},
		"CONNECT":                            {"CONNECT example.test:443 HTTP/1.1\r\nHost: example.test:443\r\n\r\n", 404},
		"an absolute target":                 {get("http://elsewhere.test/health"), 200},
		"an unknown protocol to upgrade to":  {"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade, close\r\nUpgrade: h2c\r\n\r\n", 200},
		"an Accept that nothing can satisfy": {"GET /health HTTP/1.1\r\n" + head + "Accept: text/turtle;q=x\r\n\r\n", 200},
		"a request id with a line break":     {"GET /health HTTP/1.1\r\n" + head + "X-Correlation-ID: a\x01b\r\n\r\n", 400},
	} {
		t.Run(name, func(t *testing.T) {
			status, header, body := a.raw(c.raw, strings.HasSuffix(name, "breaks off"))
			if status != c.status {
				t.Errorf("%d %.300s, want %d", status, body, c.status)
			}
			if byUs := header.Get(headerRequestID) != ""; !byUs && status != http.StatusBadRequest {
				t.Error("no request id")
			} else if byUs && status >= 400 && !strings.HasPrefix(body, `{"error":"`) {
				t.Errorf("no error of ours: %s", body)
			}
		})
	}
}

// raw sends bytes and returns the answer. A request that is cut ends our half
// of the connection.
func (a *api) raw(request string, cut bool) (int, http.Header, string) {
	a.t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(a.http.URL, "http://"))
	if err != nil {
		a.t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		a.t.Fatal(err)
	}
	if _, err := io.WriteString(conn, request); err != nil {
		a.t.Log(err) // it may have answered before all was sent
	}
	if cut {
		if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
			a.t.Log(err)
		}
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		a.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body) // an aborted answer may be cut
	return resp.StatusCode, resp.Header, string(body)
}
