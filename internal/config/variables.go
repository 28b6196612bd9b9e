package config

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// Variable describes one variable.
type Variable struct{ Name, Default, Accepts string }

// Variables lists every variable that configures the daemon, with its default
// and what it accepts, in the order of the documentation.
func Variables() []Variable {
	var list []Variable
	for f := range reflect.TypeFor[Config]().Fields() {
		list = append(list, Variable{Name: f.Tag.Get("env"), Default: f.Tag.Get("envDefault"), Accepts: f.Tag.Get("accepts")})
	}
	return list
}

// Ignored lists the variables of the reference implementation that do nothing
// here, with what to use instead in Accepts.
func Ignored() []Variable { return slices.Clone(ignored) }

var ignored = []Variable{
	{Name: "HYPERFLEET_SOCKET_DIR", Accepts: "sockets are in `HYPERFLEET_RUN_DIR`, a folder of the daemon's own, and not in /tmp where others could take their names"},
	{Name: "HYPERFLEET_LIMA_INSTANCE", Accepts: "`hyperfleet setup` needs no Lima"},
	{Name: "LIMA_INSTANCE", Accepts: "as above"},
	{Name: "KERNEL_PATH", Accepts: "use `HYPERFLEET_KERNEL_IMAGE_PATH`"},
	{Name: "ROOTFS_PATH", Accepts: "use `HYPERFLEET_ROOTFS_PATH`"},
	{Name: "API_URL", Accepts: "of the reference's examples, which read it themselves; the command line has `HYPERFLEET_HOST`"},
	{Name: "API_KEY", Accepts: "of the reference's examples, which read it themselves; the command line has `HYPERFLEET_API_KEY`"},
}

// others are the variables of this program that do not configure the daemon:
// those of the command line, and the one that names an environment file.
var others = []string{
	EnvFile, "HYPERFLEET_HOST", "HYPERFLEET_API_KEY", "HYPERFLEET_REGISTRY_PASSWORD", "HYPERFLEET_CONTEXT",
	"HYPERFLEET_TLS_CA", "HYPERFLEET_TLS_CA_FILE",
}

// ours reports whether a variable looks as if it was meant for this program.
// Those of the tests are not.
func ours(name string) bool {
	return strings.HasPrefix(name, "HYPERFLEET_") && !strings.HasPrefix(name, "HYPERFLEET_TEST_") &&
		!strings.HasPrefix(name, "HYPERFLEET_VMMTEST_")
}

// warnings tells of the variables in vars that do nothing, sorted by name. Of
// a file, every variable is meant for us; of the environment, those that bear
// our name.
func warnings(vars map[string]string, file bool) []string {
	known := slices.Clone(others)
	for _, v := range Variables() {
		known = append(known, v.Name)
	}
	var list []string
	for name := range vars {
		if slices.Contains(known, name) {
			continue
		}
		if i := slices.IndexFunc(ignored, func(v Variable) bool { return v.Name == name }); i >= 0 {
			if file || ours(name) {
				list = append(list, fmt.Sprintf("%s has no effect: %s", name, strings.ReplaceAll(ignored[i].Accepts, "`", "")))
			}
			continue
		}
		if !file && !ours(name) {
			continue
		}
		line := name + " is unknown and has no effect"
		if near := nearest(name, known); near != "" {
			line += ": do you mean " + near + "?"
		}
		list = append(list, line)
	}
	slices.Sort(list)
	return list
}

// nearest finds the name that is meant by a wrong one, "" for none: one that
// begins with it, or of which at most three letters are wrong and no more than
// a third of them.
func nearest(name string, names []string) string {
	best, at := "", min(3, (len(name)+2)/3)+1
	for _, n := range names {
		d := distance(name, n)
		if strings.HasPrefix(n, name) && name != "HYPERFLEET_" {
			d = min(d, 2)
		}
		if d < at {
			best, at = n, d
		}
	}
	return best
}

// distance is how many letters must be put in, left out or replaced to make b
// of a (Levenshtein's).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replaced := diagonal
			if a[i] != b[j] {
				replaced++
			}
			diagonal = row[j+1]
			row[j+1] = min(replaced, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
