package network

import (
	"fmt"

	"github.com/google/nftables"
)

// Answers reports why the kernel's nftables cannot be used, or nil.
func Answers() error {
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	if _, err := conn.ListTables(); err != nil {
		return fmt.Errorf("list nftables' tables: %w", err)
	}
	return nil
}
