package cli

import (
	"io"
	"os"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"

	"github.com/hyperfleet/hyperfleet"
)

// pullBars shows a pull: one bar for each layer, one for the conversion. It
// shows nothing when its writer is no terminal.
type pullBars struct {
	progress *mpb.Progress // nil: nothing is shown
	bars     map[string]*mpb.Bar
}

func newPullBars(w io.Writer) *pullBars {
	b := &pullBars{bars: map[string]*mpb.Bar{}}
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		b.progress = mpb.New(mpb.WithOutput(w), mpb.WithWidth(60))
	}
	return b
}

// update shows one step; it is called by one goroutine.
func (b *pullBars) update(p hyperfleet.PullProgress) {
	if b.progress == nil || p.Total <= 0 && p.Current <= 0 {
		return
	}
	key := p.Phase + " " + p.Layer
	bar := b.bars[key]
	if bar == nil {
		name := p.Phase
		if len(p.Layer) > 19 {
			name += " " + p.Layer[7:19] // of "sha256:..."
		}
		bar = b.progress.AddBar(p.Total,
			mpb.PrependDecorators(decor.Name(name, decor.WCSyncSpaceR)),
			mpb.AppendDecorators(decor.CountersKibiByte("% .1f / % .1f")),
		)
		b.bars[key] = bar
	}
	if p.Total > 0 {
		bar.SetTotal(p.Total, p.Current >= p.Total)
	}
	bar.SetCurrent(p.Current)
}

// close leaves the bars as they are.
func (b *pullBars) close() {
	if b.progress == nil {
		return
	}
	for _, bar := range b.bars {
		bar.Abort(false)
	}
	b.progress.Wait()
}
