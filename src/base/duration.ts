import { inspect } from 'node:util'
import ms from 'ms'
import { LockError } from './errors.ts'

/** Milliseconds, or a number with a unit: `'500ms'`, `'30s'`, `'5m'`, `'2h'`, `'7d'`. */
export type Duration = number | `${number}${'ms' | 's' | 'm' | 'h' | 'd'}`

/** Node fires a timer of 2^31 ms or more at once, so nothing that ends in a timer may be that long. */
export const MAX_TIMER_MS = 2 ** 31 - 1

/** Milliseconds of `value`, within `min` and `max`; anything else is an INVALID_ARGUMENT that names `what`. */
export function toMilliseconds(what: string, value: Duration, range: { min?: number; max?: number } = {}): number {
  const { min = 0, max = MAX_TIMER_MS } = range
  const result = typeof value === 'string' ? parse(value) : value
  if (typeof result !== 'number' || Number.isNaN(result)) {
    throw new LockError(
      'INVALID_ARGUMENT',
      `${what} must be milliseconds or a duration like '500ms', '30s', '5m' or '2h', not ${describe(value)}`,
    )
  }
  if (result < min || result > max) {
    throw new LockError('INVALID_ARGUMENT', `${what} must be from ${min} to ${max} ms, not ${describe(value)}`)
  }
  return result === Number.POSITIVE_INFINITY ? result : Math.ceil(result)
}

function parse(text: string): number {
  if (!/^[\d.]+\s?[a-z]+$/i.test(text)) return Number.NaN
  return (ms as (value: string) => number | undefined)(text) ?? Number.NaN
}

function describe(value: unknown): string {
  return typeof value === 'string' ? JSON.stringify(value) : inspect(value, { depth: 0 })
}
