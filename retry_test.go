package hyperfleet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// reply is one answer of a script.
type reply struct {
	status int
	body   string
	header http.Header
	err    error
}

// script answers requests one after the other; the last answer stays.
type script struct {
	replies []reply
	asked   int
}

func (s *script) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Body != nil {
		if _, err := io.ReadAll(req.Body); err != nil {
			return nil, err
		}
	}
	r := s.replies[min(s.asked, len(s.replies)-1)]
	s.asked++
	return r.response()
}

func (r reply) response() (*http.Response, error) {
	if r.err != nil {
		return nil, r.err
	}
	h := r.header
	if h == nil {
		h = http.Header{}
	}
	return &http.Response{StatusCode: r.status, Header: h, Body: io.NopCloser(strings.NewReader(r.body))}, nil
}

func TestRetries(t *testing.T) {
	busy := reply{status: 503, body: `{"error":"UnavailableError","message":"busy","code":"BUSY"}`}
	broken := reply{err: syscall.ECONNRESET}
	good := reply{status: 200, body: `{"status":"ok"}`}
	get := func(ctx context.Context, c *Client) error { _, err := c.Health(ctx); return err }
	start := func(ctx context.Context, c *Client) error { _, err := c.StartMachine(ctx, "m"); return err }
	keyed := func(ctx context.Context, c *Client) error {
		_, err := c.StartMachine(ctx, "m", IdempotencyKey("k"))
		return err
	}
	ready := func(ctx context.Context, c *Client) error { return c.Ready(ctx) }
	for _, c := range []struct {
		name    string
		call    func(context.Context, *Client) error
		retries int
		replies []reply
		asked   int
		took    time.Duration // at least
		want    error
	}{
		{"good", get, 0, []reply{good}, 1, 0, nil},
		{"broken connection", get, 0, []reply{broken, broken, good}, 3, 150 * time.Millisecond, nil},
		{"busy for ever", get, 0, []reply{busy}, 4, 350 * time.Millisecond, ErrUnavailable},
		{"busy, one retry", get, 1, []reply{busy}, 2, 0, ErrUnavailable},
		{"busy, none", get, -1, []reply{busy}, 1, 0, ErrUnavailable},
		{"told when", get, 0, []reply{{status: 429, header: http.Header{"Retry-After": {"7"}}}, good}, 2, 7 * time.Second, nil},
		{"told too late", get, 0, []reply{{status: 503, header: http.Header{"Retry-After": {"31"}}}, good}, 1, 0, ErrUnavailable},
		{"not found", get, 0, []reply{{status: 404}, good}, 1, 0, ErrNotFound},
		{"timed out", get, 0, []reply{{status: 504}, good}, 1, 0, ErrTimeout},
		{"ready", ready, 0, []reply{busy, good}, 1, 0, ErrUnavailable},
		{"change", start, 0, []reply{busy, good}, 1, 0, ErrUnavailable},
		{"change on a broken connection", start, 0, []reply{broken, good}, 1, 0, syscall.ECONNRESET},
		{"change with a key", keyed, 0, []reply{broken, busy, good}, 3, 0, nil},
		{"answer of an earlier request", keyed, 0, []reply{{status: 503, header: http.Header{headerReplayed: {"true"}}}, good}, 1, 0, ErrUnavailable},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &script{replies: c.replies}
				began := time.Now()
				err := c.call(t.Context(), &Client{Host: "http://x", Transport: s, MaxRetries: c.retries})
				if !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
					t.Errorf("error %v, want %v", err, c.want)
				}
				if took := time.Since(began); s.asked != c.asked || took < c.took {
					t.Errorf("asked %d times in %v, want %d in at least %v", s.asked, took, c.asked, c.took)
				}
			})
		})
	}
}

// A caller that has enough gets the last error at once.
func TestRetryEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{replies: []reply{{status: 503, header: http.Header{"Retry-After": {"20"}}}}}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		_, err := (&Client{Host: "http://x", Transport: s}).Health(ctx)
		if !errors.Is(err, ErrUnavailable) || time.Since(began) != time.Second || s.asked != 1 {
			t.Errorf("%v after %v and %d requests", err, time.Since(began), s.asked)
		}
	})
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for v, want := range map[string]time.Duration{
		"": 0, "x": 0, "-1": 0, "5": 5 * time.Second, "99999999999999999999": 0,
		"Fri, 02 Jan 2026 03:05:05 GMT": time.Minute, "Fri, 02 Jan 2026 03:00:00 GMT": 0,
	} {
		if got := retryAfter(http.Header{"Retry-After": {v}}, now); got != want {
			t.Errorf("%q: %v, want %v", v, got, want)
		}
	}
}

// pages serves machines by limit and offset, and makes a new one after each page.
type pages struct {
	ids   []string // newest first
	fails bool
}

func (p *pages) RoundTrip(req *http.Request) (*http.Response, error) {
	var limit, offset int
	q := req.URL.Query()
	if _, err := fmt.Sscan(q.Get("limit"), &limit); err != nil {
		return nil, err
	}
	_, _ = fmt.Sscan(q.Get("offset"), &offset) // 0 is not sent
	if p.fails && offset > 0 {
		return reply{status: 500}.response()
	}
	var list []string
	for _, id := range p.ids[min(offset, len(p.ids)):min(offset+limit, len(p.ids))] {
		list = append(list, `{"id":"`+id+`"}`)
	}
	total := fmt.Sprint(len(p.ids))
	p.ids = append([]string{"new" + total}, p.ids...)
	return reply{status: 200, body: "[" + strings.Join(list, ",") + "]", header: http.Header{"X-Total-Count": {total}}}.response()
}

func TestMachinesIterates(t *testing.T) {
	p := &pages{ids: []string{"e", "d", "c", "b", "a"}}
	c := &Client{Host: "http://x", Transport: p}
	var got []string
	for m, err := range c.Machines(t.Context(), ListOptions{Limit: 2}) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, m.ID)
	}
	if strings.Join(got, "") != "edcba" {
		t.Errorf("machines %q", got)
	}
	for range c.Machines(t.Context(), ListOptions{Limit: 1}) {
		break
	}
	p.fails = true
	var last error
	for _, last = range c.Machines(t.Context(), ListOptions{Limit: 2}) {
	}
	if !errors.Is(last, ErrInternal) {
		t.Errorf("a page that fails: %v", last)
	}
	list, total, err := c.ListMachinesPage(t.Context(), ListOptions{Limit: 1})
	if err != nil || len(list) != 1 || total != len(p.ids)-1 {
		t.Errorf("%d of %d, %v", len(list), total, err)
	}
}
