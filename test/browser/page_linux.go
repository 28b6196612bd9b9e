package browser

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// object is a JSON object.
type object map[string]any

// open makes the page.
func (b *Browser) open() {
	b.t.Helper()
	var target struct{ TargetID string }
	b.call("Target.createTarget", object{"url": "about:blank"}, &target)
	var attached struct{ SessionID string }
	b.call("Target.attachToTarget", object{"targetId": target.TargetID, "flatten": true}, &attached)
	b.session = attached.SessionID
	for _, domain := range []string{"Page", "Network", "Log", "Runtime"} {
		b.call(domain+".enable", object{}, nil)
	}
}

// URL is the address of a path at the Listener.
func (b *Browser) URL(path string) string { return "http://" + b.Listener.Addr().String() + path }

// Navigate goes to a path at the Listener.
func (b *Browser) Navigate(path string) {
	b.t.Helper()
	var result struct{ ErrorText string }
	b.call("Page.navigate", object{"url": b.URL(path)}, &result)
	if result.ErrorText != "" {
		b.t.Fatalf("go to %s: %s", path, result.ErrorText)
	}
}

// Await waits until a JavaScript expression is true in the page, and decodes
// its value into out, unless that is nil.
func (b *Browser) Await(expression string, out any) {
	b.t.Helper()
	poll := fmt.Sprintf(`new Promise((found, lost) => {
		const end = Date.now() + %d;
		const look = () => {
			let value;
			try { value = (%s); } catch (e) { value = null; }
			if (value) { found(value); } else if (Date.now() > end) { lost(new Error("in vain")); } else { setTimeout(look, 20); }
		};
		look();
	})`, patience.Milliseconds()/2, expression)
	var answer struct {
		Result           struct{ Value json.RawMessage }
		ExceptionDetails *struct{}
	}
	b.call("Runtime.evaluate", object{"expression": poll, "awaitPromise": true, "returnByValue": true}, &answer)
	if answer.ExceptionDetails != nil {
		b.t.Fatalf("waited in vain for %s; the page complains of %q", expression, b.Trouble())
	}
	if out != nil {
		if err := json.Unmarshal(answer.Result.Value, out); err != nil {
			b.t.Fatalf("%s: %v", expression, err)
		}
	}
}

// Click waits for an element and clicks on it.
func (b *Browser) Click(selector string) {
	b.t.Helper()
	b.Await(fmt.Sprintf(`(e => e && (e.scrollIntoView({block: "center"}), e.click(), true))(document.querySelector(%q))`, selector), nil)
}

// Type waits for an input and types into it.
func (b *Browser) Type(selector, text string) {
	b.t.Helper()
	b.Await(fmt.Sprintf(`(e => e && (e.focus(), true))(document.querySelector(%q))`, selector), nil)
	b.call("Input.insertText", object{"text": text}, nil)
}

// Screenshot is the page as a PNG.
func (b *Browser) Screenshot() []byte {
	b.t.Helper()
	var shot struct{ Data []byte }
	b.call("Page.captureScreenshot", object{"format": "png"}, &shot)
	return shot.Data
}

// Trouble is what the page complained of: errors of scripts, files that are
// missing, breaches of its policy.
func (b *Browser) Trouble() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.trouble)
}

// Elsewhere are the addresses that the page asked for at other hosts.
func (b *Browser) Elsewhere() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(b.requests), func(url string) bool {
		return strings.HasPrefix(url, b.URL("/")) || strings.HasPrefix(url, "data:") || url == "about:blank"
	})
}
