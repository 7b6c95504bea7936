import { randomFillSync } from 'node:crypto'

/** Asking the system for many random bytes at once is several times faster than for a few each time. */
const pool = Buffer.alloc(4096)
let used = pool.length

/** That many random bytes, as hex digits. */
export function randomHex(bytes: number): string {
  if (used + bytes > pool.length) {
    randomFillSync(pool)
    used = 0
  }
  used += bytes
  return pool.toString('hex', used - bytes, used)
}
