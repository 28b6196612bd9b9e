package command

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/hyperfleet/hyperfleet/internal/guestproto"
	"github.com/hyperfleet/hyperfleet/internal/initd/account"
	"github.com/hyperfleet/hyperfleet/internal/initd/process"
)

// defaultPath is what images without a PATH expect (as container engines do).
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Exit codes of a shell for what cannot be executed (POSIX, Shell Command
// Language 2.8.2).
const (
	codeNotExecutable = 126
	codeNotFound      = 127
)

// Environ joins the environment of a command: what the user gives, then the
// lists. Of a variable that comes twice the last wins, in its first place.
func Environ(u account.User, lists ...[]string) []string {
	name := u.Name
	if name == "" {
		name = fmt.Sprint(u.UID)
	}
	env := []string{"PATH=" + defaultPath, "HOME=" + u.Home, "USER=" + name, "TERM=linux"}
	at := map[string]int{}
	for i, kv := range env {
		key, _, _ := strings.Cut(kv, "=")
		at[key] = i
	}
	for _, list := range lists {
		for _, kv := range list {
			key, _, _ := strings.Cut(kv, "=")
			if i, ok := at[key]; ok {
				env[i] = kv
				continue
			}
			at[key] = len(env)
			env = append(env, kv)
		}
	}
	return env
}

// launch starts c. Every error has undone what was done before it.
func (e *Engine) launch(c *Command, req Request) error {
	user, err := e.accounts.Lookup(req.User)
	if err != nil {
		return guestproto.Errorf(guestproto.KindInvalid, guestproto.CodeNoUser, "%v", err)
	}
	dir := req.Dir
	if dir == "" {
		dir = "/"
	}
	if err := checkDir(dir); err != nil {
		return err
	}
	c.stdout, c.stderr = newOutput(c.exited, e.memory), newOutput(c.exited, e.memory)
	p, err := e.spawn(c, req, user, dir)
	var notRun *notRunError
	switch {
	case errors.As(err, &notRun):
		e.neverRan(c, notRun)
		return nil
	case err != nil:
		return startError(err)
	}
	e.supervise(c, p, req)
	return nil
}

func checkDir(dir string) error {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return guestproto.Errorf(guestproto.KindInvalid, guestproto.CodeNoWorkDir, "working directory %q: %v", dir, err)
	}
	return unix.Close(fd)
}

func startError(err error) error {
	out := guestproto.Errorf(guestproto.KindGuest, "EXEC_START", "start command: %v", err)
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		out.Errno = int(errno)
	}
	return out
}

// neverRan ends c as a shell would end it, which tells on standard error.
func (e *Engine) neverRan(c *Command, why *notRunError) {
	fmt.Fprintf(ringWriter{c.stderr.ring}, "exec %q: %v\n", why.name, why.err)
	c.stdout.ring.CloseWrite()
	c.stderr.ring.CloseWrite()
	c.status = Status{Code: why.code}
	close(c.exited)
	e.finished(c)
	close(c.ended)
}

type ringWriter struct{ *guestproto.Ring }

func (e *Engine) supervise(c *Command, p *process.Process, req Request) {
	c.tree = process.NewTree(p, c.group)
	var pumps sync.WaitGroup
	pumps.Add(2)
	e.wg.Go(func() { c.stdout.pump(pumps.Done) })
	e.wg.Go(func() { c.stderr.pump(pumps.Done) })
	e.wg.Go(func() {
		c.run(p, req.Timeout, &pumps)
		e.finished(c)
		close(c.ended)
	})
}

// spawn makes the pipes and the group and starts the program.
func (e *Engine) spawn(c *Command, req Request, user account.User, dir string) (*process.Process, error) {
	pipes, err := openPipes(req.Stdin)
	if err != nil {
		return nil, err
	}
	defer pipes.closeChild()
	if user.UID != 0 {
		if err := pipes.own(user.UID, user.GID); err != nil {
			pipes.closeParent()
			return nil, err
		}
	}
	attr := &syscall.ProcAttr{
		Dir:   dir,
		Env:   Environ(user, req.Env),
		Files: pipes.child[:],
		Sys: &syscall.SysProcAttr{
			Setsid: true,
			Credential: &syscall.Credential{
				Uid: user.UID, Gid: user.GID, Groups: user.Groups,
				// Only root may set groups; in a guest we always are.
				NoSetGroups: os.Geteuid() != 0,
			},
		},
	}
	if e.cfg.Groups != nil {
		if c.group, err = e.cfg.Groups.Take(); err != nil {
			pipes.closeParent()
			return nil, err
		}
		attr.Sys.UseCgroupFD, attr.Sys.CgroupFD = true, c.group.FD()
	}
	p, err := e.execute(req.Argv, attr)
	if err != nil {
		pipes.closeParent()
		if c.group != nil {
			c.group.Release()
		}
		return nil, err
	}
	c.input.pipe, c.stdout.pipe, c.stderr.pipe = pipes.stdin, pipes.stdout, pipes.stderr
	return p, nil
}

// notRunError says that the program could not be executed.
type notRunError struct {
	name string
	code int
	err  error
}

func (e *notRunError) Error() string { return e.err.Error() }

var errNotFound = errors.New("executable file not found in $PATH")

// execute finds the program as execvp(3) does, in the command's own PATH, and
// starts it. No shell takes part, except that a script without "#!" is handed
// to /bin/sh as a file, which POSIX asks for.
func (e *Engine) execute(argv []string, attr *syscall.ProcAttr) (*process.Process, error) {
	failure := &notRunError{name: argv[0], code: codeNotFound, err: errNotFound}
	for _, path := range candidates(argv[0], attr.Env) {
		if !exists(path, attr.Dir) {
			continue
		}
		p, err := e.cfg.Reaper.Start(path, argv, attr)
		if errors.Is(err, unix.ENOEXEC) {
			p, err = e.cfg.Reaper.Start("/bin/sh", append([]string{"/bin/sh", path}, argv[1:]...), attr)
		}
		switch {
		case err == nil:
			return p, nil
		case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
			// The file is there: its interpreter or loader is not.
			failure = &notRunError{name: path, code: codeNotFound, err: fmt.Errorf("interpreter of %s: %w", path, err)}
		case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM), errors.Is(err, unix.ENOEXEC),
			errors.Is(err, unix.ELIBBAD), errors.Is(err, unix.EISDIR), errors.Is(err, unix.ETXTBSY),
			errors.Is(err, unix.E2BIG), errors.Is(err, unix.EINVAL), errors.Is(err, unix.ELOOP):
			failure = &notRunError{name: path, code: codeNotExecutable, err: err}
		default:
			return nil, err
		}
	}
	if errors.Is(failure.err, errNotFound) && strings.Contains(argv[0], "/") {
		failure.err = unix.ENOENT
	}
	return nil, failure
}

// candidates are the paths that name may stand for.
func candidates(name string, env []string) []string {
	if strings.Contains(name, "/") {
		return []string{name}
	}
	var path string
	for _, kv := range env {
		if v, ok := strings.CutPrefix(kv, "PATH="); ok {
			path = v
		}
	}
	var all []string
	for dir := range strings.SplitSeq(path, ":") {
		if dir == "" {
			dir = "." // POSIX: an empty element is the current directory
		}
		all = append(all, dir+"/"+name)
	}
	return all
}

// exists spares a fork for what is not there.
func exists(path, dir string) bool {
	if !filepath.IsAbs(path) {
		path = filepath.Join(dir, path)
	}
	var st unix.Stat_t
	err := unix.Stat(path, &st)
	return !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENOTDIR)
}
