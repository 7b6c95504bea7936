import { CONFIRM_MS } from '../../src/protocol/store.ts'

/** Clocks of the test and of the server, and the time that a statement takes, differ by less. */
const TOLERANCE_MS = 2 * 60_000
/** SQLite and the test's own clock count whole milliseconds. */
const ROUNDING_MS = 2

/** Of marks the rows of locks know nothing, and lock-row.ts neither. */
const CHECKPOINTED = 'checkpointed'
const DURATIONS = ['remainingMs', 'expiresInMs']
const TIMES = ['expiresAt', 'until', 'idleSince', 'since', 'waitingMs']
/** Of these nobody asks whether they are over. */
const PAST = ['idleSince', 'since', 'waitingMs']

/** Where `actual` differs from `expected` first, in words; null if it does not. `now` is when it was expected, by the test's clock. */
export function differenceOf(expected: unknown, actual: unknown, now: number, path = ''): string | null {
  const key = path.slice(path.lastIndexOf('.') + 1)
  if (typeof expected === 'number' && typeof actual === 'number') {
    if (DURATIONS.includes(key)) return timesDiffer(expected, actual) ? unequal(path, expected, actual) : null
    if (TIMES.includes(key)) {
      // Of what is over already, nobody looks at the milliseconds.
      const differ = PAST.includes(key)
        ? Math.abs(expected - actual) > TOLERANCE_MS
        : timesDiffer(expected - now, actual - now)
      return differ ? unequal(path, expected - now, actual - now) : null
    }
  }
  if (!isObject(expected) || !isObject(actual)) {
    return Object.is(expected, actual) ? null : unequal(path, expected, actual)
  }
  if (Array.isArray(expected) !== Array.isArray(actual)) return unequal(path, expected, actual)
  for (const each of new Set([...Object.keys(expected), ...Object.keys(actual)])) {
    if (each === CHECKPOINTED) continue
    const difference = differenceOf(expected[each], actual[each], now, path === '' ? each : `${path}.${each}`)
    if (difference !== null) return difference
  }
  return null
}

/** Ttls of leases are hours apart. A hand-off that is to be confirmed must not last longer than that, and the answer comes later. */
function timesDiffer(expectedMs: number, actualMs: number): boolean {
  if (expectedMs > 0 !== actualMs > 0) return true
  if (expectedMs > 0 && expectedMs <= CONFIRM_MS && actualMs > expectedMs + ROUNDING_MS) return true
  return Math.abs(expectedMs - actualMs) > TOLERANCE_MS
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null
}

function unequal(path: string, expected: unknown, actual: unknown): string {
  return `${path}: expected ${shown(expected)}, was ${shown(actual)}`
}

export function shown(value: unknown): string {
  return JSON.stringify(value, (_, each: unknown) => (typeof each === 'bigint' ? `${each}n` : each)) ?? String(value)
}
