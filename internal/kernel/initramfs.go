package kernel

import (
	"compress/gzip"
	"errors"
	"io"
	"strings"
)

// WriteInitramfs writes an initramfs with init as /init and the modules, which
// are in load order:
//
//	/init                  hyperfleet-init
//	/dev/console           init's standard streams
//	/hyperfleet/modules    the modules' file names in load order, one per line;
//	                       an empty line comes before those for later
//	/hyperfleet/lib/*.ko   the modules
//
// It is not compressed: unpacking it would cost a guest more than reading it.
// The same arguments give the same bytes.
func WriteInitramfs(w io.Writer, init []byte, modules []Module) error {
	c := &cpioWriter{w: w}
	c.dir("dev", 0o755)
	c.char("dev/console", 0o600, 5, 1) // Linux, Documentation/admin-guide/devices.txt
	c.file("init", 0o755, init)
	c.dir("hyperfleet", 0o755)
	c.dir("hyperfleet/lib", 0o755)
	var names strings.Builder
	for i, m := range modules {
		if m.Later && i > 0 && !modules[i-1].Later {
			names.WriteByte('\n')
		}
		names.WriteString(m.File + "\n")
		c.file("hyperfleet/lib/"+m.File, 0o644, m.Data)
	}
	c.file("hyperfleet/modules", 0o644, []byte(names.String()))
	return c.close()
}

// WriteSmallInitramfs writes the same archive compressed: a guest with little
// memory holds archive and files at once while it unpacks them. gzip is the
// format that kernels are least likely to lack, and takes little memory to read.
// The same arguments give the same bytes.
func WriteSmallInitramfs(w io.Writer, init []byte, modules []Module) error {
	z, err := gzip.NewWriterLevel(w, gzip.BestCompression)
	if err != nil {
		return err
	}
	return errors.Join(WriteInitramfs(z, init, modules), z.Close())
}
