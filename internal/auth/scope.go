package auth

import (
	"slices"
	"strings"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
)

// Scope is what a key may do: "resource:action", "resource:*" for all actions
// on a resource, those of later versions too, or "*" for everything.
type Scope string

// The scopes. None implies another, except by a star.
const (
	MachinesRead  Scope = "machines:read"  // see machines and their consoles
	MachinesWrite Scope = "machines:write" // create, start, stop, delete
	MachinesExec  Scope = "machines:exec"  // run commands and move files, in and out
	MachinesAll   Scope = "machines:*"
	ImagesRead    Scope = "images:read"
	ImagesWrite   Scope = "images:write" // pull, import, delete
	ImagesAll     Scope = "images:*"
	KeysRead      Scope = "keys:read"
	KeysWrite     Scope = "keys:write" // create and revoke
	KeysAll       Scope = "keys:*"
	All           Scope = "*"
)

var scopes = []Scope{
	MachinesRead, MachinesWrite, MachinesExec, MachinesAll,
	ImagesRead, ImagesWrite, ImagesAll,
	KeysRead, KeysWrite, KeysAll,
	All,
}

// Known lists every scope.
func Known() []Scope { return slices.Clone(scopes) }

// ParseScope returns errdefs.Invalid for a scope that there is not.
func ParseScope(s string) (Scope, error) {
	if i := slices.Index(scopes, Scope(s)); i >= 0 {
		return scopes[i], nil
	}
	return "", errdefs.New(errdefs.Invalid, "VALIDATION_ERROR", "unknown scope %.64q", s)
}

// includes reports whether a holder of s may do what want is needed for.
func (s Scope) includes(want Scope) bool {
	if s == want || s == All {
		return true
	}
	resource, _, named := strings.Cut(string(want), ":")
	return named && string(s) == resource+":*"
}

// Scopes is a set of scopes.
type Scopes []Scope

// Allows reports whether a holder of s may do what want is needed for. For a
// scope with a star that is: whether s holds it, or a wider one.
func (s Scopes) Allows(want Scope) bool {
	return slices.ContainsFunc(s, func(have Scope) bool { return have.includes(want) })
}
