package initd

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestChoresStopBeforeTheyBegin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := after(time.Second, func(func() bool) { t.Error("began after the stop") })
		go c.stop()
		c.stop()
		c.stop()
		time.Sleep(time.Minute) // of the bubble's clock
	})
}

func TestChoresStopWaitsForTheirEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ended, told := false, false
		begun := make(chan struct{})
		c := after(time.Second, func(stopped func() bool) {
			close(begun)
			time.Sleep(time.Minute) // a module that loads
			ended, told = true, stopped()
		})
		<-begun
		c.stop()
		if !ended || !told {
			t.Errorf("stopped with the work ended: %t, which was told: %t", ended, told)
		}
	})
}
