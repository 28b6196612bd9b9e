package ext4

// Forms of a POSIX ACL: getxattr(2) gives version 2 with entries of 8 bytes,
// the disk has version 1 where only named users and groups have an ID
// (include/uapi/linux/posix_acl_xattr.h, fs/ext4/acl.h).
const (
	aclVersionXattr = 2
	aclVersionDisk  = 1
	aclUser         = 0x02 // tag of a named user
	aclGroup        = 0x08 // tag of a named group
)

// diskACL turns the value of a POSIX ACL attribute into the form on disk. It
// reports false when the value is malformed.
func diskACL(value []byte) ([]byte, bool) {
	if len(value) < 4 || (len(value)-4)%8 != 0 || le.Uint32(value) != aclVersionXattr {
		return nil, false
	}
	out := le.AppendUint32(nil, aclVersionDisk)
	for e := value[4:]; len(e) > 0; e = e[8:] {
		out = append(out, e[:4]...) // tag and permissions
		switch le.Uint16(e) {
		case aclUser, aclGroup:
			out = append(out, e[4:8]...)
		}
	}
	return out, true
}
