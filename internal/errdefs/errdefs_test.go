package errdefs_test

import (
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
)

func TestErrorsKeepTheirClass(t *testing.T) {
	inner := errdefs.Wrap(io.ErrUnexpectedEOF, errdefs.NotFound, "IMAGE_NOT_FOUND", "image %q not found", "a")
	for name, err := range map[string]error{
		"plain":   inner,
		"wrapped": fmt.Errorf("resolve: %w", inner),
		"joined":  errors.Join(errors.New("close"), fmt.Errorf("resolve: %w", inner)),
		"outer":   fmt.Errorf("a: %w: %w", inner, errdefs.New(errdefs.Conflict, "OTHER", "other")),
	} {
		t.Run(name, func(t *testing.T) {
			if k := errdefs.KindOf(err); k != errdefs.NotFound {
				t.Errorf("kind %s", k)
			}
			if c := errdefs.CodeOf(err); c != "IMAGE_NOT_FOUND" {
				t.Errorf("code %s", c)
			}
			if p := errdefs.Public(err); p != `image "a" not found` {
				t.Errorf("public message %q", p)
			}
			if !errors.Is(err, io.ErrUnexpectedEOF) || !errdefs.Is(err, errdefs.NotFound) || errdefs.Is(err, errdefs.Conflict) {
				t.Errorf("%v lost its cause or kind", err)
			}
		})
	}
}

func TestErrorWithoutClass(t *testing.T) {
	err := errors.New("open /secret/path: no space")
	if errdefs.KindOf(err) != errdefs.Internal || errdefs.CodeOf(err) != "INTERNAL_ERROR" {
		t.Errorf("kind %s, code %s", errdefs.KindOf(err), errdefs.CodeOf(err))
	}
	if got := errdefs.Public(err); got != "An unexpected error occurred" {
		t.Errorf("public message %q", got)
	}
	if errdefs.Is(nil, errdefs.Internal) {
		t.Error("no error is of a kind")
	}
}

func TestErrorText(t *testing.T) {
	for _, c := range []struct {
		err          *errdefs.Error
		text, public string
	}{
		{errdefs.New(errdefs.Invalid, "X", "bad %d", 1), "bad 1", "bad 1"},
		{errdefs.New(errdefs.Invalid, "X", "bad: %w", io.EOF), "bad: EOF", "bad: EOF"},
		{errdefs.Wrap(io.EOF, errdefs.Invalid, "X", "bad 100%%"), "bad 100%: EOF", "bad 100%"},
		{errdefs.Wrap(nil, errdefs.Invalid, "X", "bad"), "bad", "bad"},
	} {
		if c.err.Error() != c.text || errdefs.Public(c.err) != c.public {
			t.Errorf("text %q, public %q, want %q, %q", c.err.Error(), errdefs.Public(c.err), c.text, c.public)
		}
	}
	if !errors.Is(errdefs.New(errdefs.Invalid, "X", "bad: %w", io.EOF), io.EOF) {
		t.Error("New lost the cause of its verb")
	}
}
