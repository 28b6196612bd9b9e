package auth

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"regexp"
	"strings"
	"testing"
)

func TestSecretHasTheFormOfTheContract(t *testing.T) {
	form := regexp.MustCompile(`^hf_[A-Za-z0-9_-]{32}$`)
	seen := map[Secret]bool{}
	for range 1000 {
		s := NewSecret()
		if !form.MatchString(s.Reveal()) || len(s) != 35 || len(s.Prefix()) != 11 || seen[s] {
			t.Fatalf("secret %q, prefix %q", s.Reveal(), s.Prefix())
		}
		seen[s] = true
	}
	id := regexp.MustCompile(`^[a-z0-9]{12}$`)
	if got := newKeyID(); !id.MatchString(string(got)) {
		t.Errorf("id %q", got)
	}
}

func TestSecretIsPrintedNowhere(t *testing.T) {
	s := NewSecret()
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "secret", s, "in", struct{ S Secret }{s})
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "secret", s, "in", struct{ S Secret }{s})
	raw, err := json.Marshal(map[string]any{"a": s, "b": []Secret{s}})
	if err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf("%s %v %+v %#v %q", s, s, struct{ S Secret }{s}, struct{ S Secret }{s}, s) + log.String() + string(raw)
	if strings.Contains(text, s.Reveal()) || strings.Contains(text, s.Reveal()[3:]) {
		t.Errorf("the secret %s is in %s", s.Reveal(), text)
	}
}

func TestHashIsReadAsWritten(t *testing.T) {
	// printf hf_abc | sha256sum: the form of the reference, whose keys can so be
	// carried over.
	h := Secret("hf_abc").Hash()
	if h.String() != "df36395a9d2f54b8e6e96d9710226cb93b5c6dad3ae506518b76363bd61ed591" {
		t.Errorf("hash %s", h)
	}
	got, err := ParseHash(h.String())
	if err != nil || got != h {
		t.Errorf("%v, %v", got, err)
	}
	for _, s := range []string{"", "00", strings.Repeat("0", 63), strings.Repeat("0", 65), strings.Repeat("0", 66), strings.Repeat("g", 64)} {
		if _, err := ParseHash(s); err == nil {
			t.Errorf("%q is a hash", s)
		}
	}
}
