"""``python -m tests.bench``: how fast ovafs is, beside peers on the same inputs in the same run.

Peers: ``cp`` of a plain file that holds the OVA's bytes; ``qemu-img convert -O qcow2`` followed by ``tar cf``; the C
example ``passthrough_ll`` of libfuse serving that plain file; and ``minimal_fs``, a pyfuse3 file system that answers
each read with one ``os.pread`` of it: the limit of the stack that ovafs stands on. Of imports: ``tar xf`` followed by
``qemu-img convert`` or ``cp --sparse=always``.

What makes the figures fair:

- Subjects take turns (A B C, B C A, ...), a ratio is taken within one round, and medians are reported with the range.
  A first round is not counted.
- The sources are warm: read once, just before each measurement. What is cached *of a mount* is dropped then
  (``posix_fadvise(POSIX_FADV_DONTNEED)``, which leaves the source below it alone), so the kernel answers nothing
  itself.
- Sequential reads are ``dd iflag=nocache``, which drops the pages behind itself, and the random reader does the same.
  Otherwise a virtual machine whose hypervisor takes free memory back measures first touches of memory: 0.3 to 1.9 GB/s
  for the same peer, against 3 % of spread this way.
"""
