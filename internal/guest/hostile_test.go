package guest

import (
	"errors"
	"io"
	"math"
	"strings"
	"testing"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
	"github.com/hyperfleet/hyperfleet/internal/guestproto"
	"github.com/hyperfleet/hyperfleet/internal/machine"
)

// Whatever a guest answers to an exec, its caller gets an error of the kind
// Guest, and nothing else suffers.
func TestLiesAboutExec(t *testing.T) {
	for name, answer := range map[string]func(st *guestproto.Stream){
		"negative offset": func(st *guestproto.Stream) {
			st.Send(guestproto.ExecStarted{Stdin: -1})
			st.End(guestproto.ExecExit{})
		},
		"offset that overflows": func(st *guestproto.Stream) {
			st.Send(guestproto.ExecStarted{Stdin: math.MaxInt64 - 1})
			<-st.Done()
		},
		"no object": func(st *guestproto.Stream) {
			st.Send([]int{1})
			st.End(guestproto.ExecExit{})
		},
		"result is no object": func(st *guestproto.Stream) { st.End("done") },
		"less output than said": func(st *guestproto.Stream) {
			st.Writer(guestproto.Stdout).Write([]byte("abc"))
			st.End(guestproto.ExecExit{Stdout: 5})
		},
		"output the guest hides": func(st *guestproto.Stream) {
			st.Writer(guestproto.Stderr).Write([]byte("abc"))
			st.End(guestproto.ExecExit{})
		},
		"a kind that guests may not use": func(st *guestproto.Stream) {
			st.Fail(&guestproto.Error{Kind: "unauthorized", Code: "x y", Message: "m"})
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := startScript(t, answer)
			p, err := s.Exec(t.Context(), machine.ExecRequest{ID: "a", Argv: []string{"x"}, Stdin: true})
			if err == nil {
				defer p.Close()
				_, outErr := io.Copy(io.Discard, p.Stdout())
				_, errErr := io.Copy(io.Discard, p.Stderr())
				_, waitErr := p.Wait(t.Context())
				err = errors.Join(outErr, errErr, waitErr)
			}
			if !errdefs.Is(err, errdefs.Guest) {
				t.Errorf("got %v, of kind %s", err, errdefs.KindOf(err))
			}
		})
	}
}

// What remains of an exit status is one that can be.
func TestExitStatusIsPlausible(t *testing.T) {
	s := startScript(t, func(st *guestproto.Stream) {
		st.End(guestproto.ExecExit{Code: 1 << 40, Signal: "SIG<script>", TimedOut: true})
	})
	p := mustExec(t, s, machine.ExecRequest{ID: "a", Argv: []string{"x"}})
	if st, err := p.Wait(t.Context()); err != nil || st != (machine.ExitStatus{Code: -1, TimedOut: true}) {
		t.Errorf("%+v, %v", st, err)
	}
}

func TestLiesAboutFiles(t *testing.T) {
	entries := ""
	s := startScript(t, func(st *guestproto.Stream) {
		switch st.Method() {
		case guestproto.MethodFileList:
			io.WriteString(st.Writer(guestproto.Download), entries)
			st.End(nil)
		case guestproto.MethodFileWrite:
			io.Copy(io.Discard, st.Reader(guestproto.Upload))
			st.End(guestproto.FileWritten{Size: 1})
		case guestproto.MethodFileRead:
			st.End(guestproto.Empty{})
		default:
			st.End(guestproto.FileInfo{Size: -5})
		}
	})
	for _, e := range []string{
		`{"name":"../../etc/passwd"}`, `{"name":".."}`, `{"name":""}`, `{"name":"a\u0000"}`, `{`, "\n",
		`{"name":"` + strings.Repeat("x", maxLine) + `"}`,
	} {
		entries = e + "\n"
		_, err := s.List(t.Context(), "/d")
		requireKind(t, err, errdefs.Guest, guestproto.CodeBadAnswer)
	}
	entries = strings.Repeat(`{"name":"a"}`+"\n", maxEntries+1)
	_, err := s.List(t.Context(), "/d")
	requireKind(t, err, errdefs.Exhausted, "LIST_TOO_LONG")
	entries = strings.Repeat(`{"name":"a"}`+"\n", maxList/4000+1)
	_, err = s.List(t.Context(), "/"+strings.Repeat("d", 4000))
	requireKind(t, err, errdefs.Exhausted, "LIST_TOO_LONG")
	_, err = s.WriteFile(t.Context(), "/a", 0o600, strings.NewReader("abc"))
	requireKind(t, err, errdefs.Guest, guestproto.CodeBadAnswer)
	_, _, err = s.ReadFile(t.Context(), "/a")
	requireKind(t, err, errdefs.Guest, guestproto.CodeBadAnswer)
	if fi, err := s.Stat(t.Context(), "/a"); err != nil || fi.Size != 0 {
		t.Errorf("%+v, %v", fi, err)
	}
}
