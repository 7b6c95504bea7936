import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { type Duration, MAX_TIMER_MS, toMilliseconds } from '../../src/base/duration.ts'
import { LockError } from '../../src/base/errors.ts'

const UNITS = { ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 }
const unit = fc.constantFrom(...(Object.keys(UNITS) as (keyof typeof UNITS)[]))

/** Milliseconds, or the code of the error. */
function attempt(value: unknown, range?: { min?: number; max?: number }): unknown {
  try {
    return toMilliseconds('ttl', value as Duration, range)
  } catch (error) {
    expect(error).toBeInstanceOf(LockError)
    expect((error as LockError).message).toContain('ttl')
    return (error as LockError).code
  }
}

describe('a duration', () => {
  it('is a number with a unit', () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 1_000_000 }), unit, fc.constantFrom('', ' '), (count, unit, space) => {
        const ms = count * UNITS[unit]
        expect(attempt(`${count}${space}${unit}`)).toBe(ms <= MAX_TIMER_MS ? ms : 'INVALID_ARGUMENT')
      }),
    )
  })

  it('may have a fraction, and is rounded up to whole milliseconds', () => {
    expect(attempt('1.5s')).toBe(1500)
    expect(attempt('.5h')).toBe(1_800_000)
    expect(attempt('0.1ms')).toBe(1)
    expect(attempt(0.1)).toBe(1)
    expect(attempt(99.000001)).toBe(100)
  })

  it('may be a number of milliseconds, within the range', () => {
    fc.assert(
      fc.property(fc.double(), fc.nat(1000), fc.nat(1000), (value, a, b) => {
        const [min, max] = [Math.min(a, b), Math.max(a, b)]
        const valid = value >= min && value <= max
        expect(attempt(value, { min, max })).toBe(valid ? Math.ceil(value) : 'INVALID_ARGUMENT')
      }),
      {
        examples: [
          [Number.NaN, 0, 10],
          [-0, 0, 10],
          [Number.POSITIVE_INFINITY, 0, 1000],
          [0.5, 0, 1],
        ],
      },
    )
  })

  it('is never longer than a timer of Node can be, unless that is allowed', () => {
    expect(attempt(2 ** 31 - 1)).toBe(2 ** 31 - 1)
    expect(attempt(2 ** 31)).toBe('INVALID_ARGUMENT')
    expect(attempt('24d')).toBe(24 * UNITS.d)
    expect(attempt('25d')).toBe('INVALID_ARGUMENT')
    expect(attempt(Number.POSITIVE_INFINITY)).toBe('INVALID_ARGUMENT')
    expect(attempt('25d', { max: Number.MAX_SAFE_INTEGER })).toBe(25 * UNITS.d)
    expect(attempt(Number.POSITIVE_INFINITY, { max: Number.POSITIVE_INFINITY })).toBe(Number.POSITIVE_INFINITY)
  })

  it('is whole milliseconds or an INVALID_ARGUMENT, whatever it is made from', () => {
    const anything = fc.oneof(fc.anything({ withBigInt: true, withDate: true, withNullPrototype: true }), fc.string())
    fc.assert(
      fc.property(anything, (value) => {
        const result = attempt(value)
        if (result === 'INVALID_ARGUMENT') return
        expect(Number.isInteger(result)).toBe(true)
        expect(result).toBeGreaterThanOrEqual(0)
        expect(result).toBeLessThanOrEqual(MAX_TIMER_MS)
        expect(['string', 'number']).toContain(typeof value)
      }),
      { numRuns: 2000 },
    )
  })

  it('is no text without a unit, with a sign, or with anything else in it', () => {
    const texts = [
      '',
      ' ',
      '5',
      's',
      '-5s',
      '+5s',
      '5s ',
      '5 s 5',
      '5s5s',
      '1e3ms',
      '1.2.3s',
      '0x10ms',
      '5 parsecs',
      '5ｓ',
    ]
    for (const text of [...texts, 'Infinity', 'NaN', 'null', '٥s']) expect(attempt(text), text).toBe('INVALID_ARGUMENT')
  })
})
