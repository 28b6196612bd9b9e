// Package bench measures Hyperfleet against floors and peers, as ratios in one
// run: `make bench`. An absolute time that it prints is a note, not a result.
package bench
