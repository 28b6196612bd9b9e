package guestproto

import "strings"

// Validate checks what every guest must be able to rely on.
func (m *ExecStart) Validate() error {
	switch {
	case !ValidID(m.ID):
		return invalid("exec id must be 1 to %d of [0-9A-Za-z_-]", MaxIDLen)
	case len(m.Argv) == 0 || m.Argv[0] == "":
		return invalid("argv must name a command")
	case len(m.Argv) > MaxArgs || len(m.Env) > MaxArgs:
		return invalid("more than %d arguments or variables", MaxArgs)
	case hasNUL(m.Argv...) || hasNUL(m.Env...) || hasNUL(m.User):
		return invalid("argument holds a NUL byte")
	case m.TimeoutMillis < 0:
		return invalid("timeout must not be negative")
	case m.WorkDir != "":
		return validPath("working directory", m.WorkDir)
	}
	return nil
}

// Validate checks the id and the offsets.
func (m *ExecAttach) Validate() error {
	if !ValidID(m.ID) || m.Stdout < 0 || m.Stderr < 0 {
		return invalid("exec id or offsets")
	}
	return nil
}

// Validate checks the id and the signal's number.
func (m *ExecSignal) Validate() error {
	if !ValidID(m.ID) || m.Signal < 1 || m.Signal > MaxSignal {
		return invalid("exec id, or signal not in 1..%d", MaxSignal)
	}
	return nil
}

// Validate checks the ids.
func (m *ExecRelease) Validate() error {
	if len(m.IDs) > MaxFinished {
		return invalid("more than %d exec ids", MaxFinished)
	}
	for _, id := range m.IDs {
		if !ValidID(id) {
			return invalid("exec id %q", cleanText(id, MaxIDLen))
		}
	}
	return nil
}

// Validate checks the grace.
func (m *Shutdown) Validate() error {
	if m.GraceMillis < 0 {
		return invalid("grace must not be negative")
	}
	return nil
}

// Validate checks the path.
func (m *FilePath) Validate() error { return validPath("path", m.Path) }

// Validate checks the path.
func (m *FileWrite) Validate() error { return validPath("path", m.Path) }

// Validate checks the path.
func (m *FileMkdir) Validate() error { return validPath("path", m.Path) }

// Validate checks the path.
func (m *FileRemove) Validate() error { return validPath("path", m.Path) }

// Validate checks both paths.
func (m *FileRename) Validate() error {
	if err := validPath("source path", m.From); err != nil {
		return err
	}
	return validPath("target path", m.To)
}

func validPath(what string, p Text) error {
	switch {
	case !strings.HasPrefix(string(p), "/"):
		return invalid("%s must be absolute", what)
	case len(p) > MaxPathLen:
		return invalid("%s is longer than %d bytes", what, MaxPathLen)
	case hasNUL(p):
		return invalid("%s holds a NUL byte", what)
	}
	return nil
}

func hasNUL(texts ...Text) bool {
	for _, t := range texts {
		if strings.IndexByte(string(t), 0) >= 0 {
			return true
		}
	}
	return false
}
