import fc from 'fast-check'
import { afterEach, describe, expect, it, vi } from 'vitest'
import { fromMemory, MemoryDatabase } from '../../src/adapters/memory.ts'
import { createLocks } from '../../src/index.ts'
import { dueAt, type JobState, sinceOf } from '../../src/process/jobs/due.ts'
import { type Schedule, toSchedule } from '../../src/process/jobs/schedule.ts'

const HOUR_MS = 3_600_000
const DAY_MS = 24 * HOUR_MS

function claimed(instant: number, rest: Partial<JobState> = {}): JobState {
  return { claimed: instant, done: true, failures: 0, retryAt: 0, lastSuccess: null, ...rest }
}

describe('what is due', () => {
  const schedule = toSchedule({ every: 1000, from: 0 })
  const duty = { schedule, guarantee: 'at-most-once', since: 4500 } as const
  const atLeastOnce = { ...duty, guarantee: 'at-least-once' } as const

  it('is nothing before the first instant since one came', () => {
    expect(dueAt(4600, duty, undefined)).toEqual({ instant: null, at: 5000 })
  })

  it('is an instant from itself on until the next one', () => {
    expect(dueAt(5000, duty, undefined)).toEqual({ instant: 5000, until: 6000 })
    expect(dueAt(5999, duty, claimed(4000))).toEqual({ instant: 5000, until: 6000 })
    expect(dueAt(6000, duty, claimed(4000))).toEqual({ instant: 6000, until: 7000 })
    expect(dueAt(9100, duty, claimed(5000))).toEqual({ instant: 9000, until: 10_000 })
  })

  it('is nothing that was claimed', () => {
    for (const each of [duty, atLeastOnce]) {
      expect(dueAt(5500, each, claimed(5000))).toEqual({ instant: null, at: 6000 })
    }
    expect(dueAt(5500, duty, claimed(5000, { done: false }))).toEqual({ instant: null, at: 6000 })
  })

  it('is what was claimed, but is not done, if it is to be at least once, until the next one comes', () => {
    expect(dueAt(5500, atLeastOnce, claimed(5000, { done: false }))).toEqual({ instant: 5000, until: 6000 })
    expect(dueAt(6500, atLeastOnce, claimed(5000, { done: false }))).toEqual({ instant: 6000, until: 7000 })
    const failed = claimed(5000, { done: false, failures: 1, retryAt: 5700 })
    expect(dueAt(5500, atLeastOnce, failed)).toEqual({ instant: null, at: 5700 })
    expect(dueAt(5700, atLeastOnce, failed)).toEqual({ instant: 5000, until: 6000 })
    expect(dueAt(5500, atLeastOnce, { ...failed, retryAt: 6100 })).toEqual({ instant: null, at: 6000 })
  })

  it('is what was missed, once, if that is to be made up for, and anything has ever been', () => {
    expect(sinceOf(4500, schedule, 'skip', claimed(1000))).toBe(4500)
    expect(sinceOf(4500, schedule, 'once', undefined)).toBe(4500)
    expect(sinceOf(4500, schedule, 'once', claimed(4000))).toBe(4500)
    const since = sinceOf(4500, schedule, 'once', claimed(1000))
    expect(dueAt(4500, { ...duty, since }, claimed(1000))).toEqual({ instant: 4000, until: 5000 })
  })

  it('of a cron is each instant, in order, for as long as it is not much too late', () => {
    const cron = toSchedule({ cron: '* * * * * *', timezone: 'UTC' })
    const late = { schedule: cron, guarantee: 'at-most-once', since: 4500 } as const
    expect(dueAt(9100, late, claimed(5000))).toEqual({ instant: 6000, until: 16_000 })
    expect(dueAt(9100, late, undefined)).toEqual({ instant: 5000, until: 15_000 })
    expect(dueAt(60_100, late, claimed(5000))).toEqual({ instant: 51_000, until: 61_000 })
  })

  it('none is passed over, and none comes twice, whatever the times at which one looks', () => {
    fc.assert(
      fc.property(fc.array(fc.integer({ min: 1, max: 900 }), { minLength: 20 }), (pauses) => {
        let now = 4500
        let state: JobState | undefined
        const taken: number[] = []
        for (const pause of pauses) {
          now += pause
          const due = dueAt(now, duty, state)
          if (due.instant === null) continue
          taken.push(due.instant)
          state = claimed(due.instant)
        }
        expect(taken).toEqual(taken.map((_, index) => 5000 + index * 1000))
      }),
    )
  })
})

describe('the instants of a schedule', () => {
  const zones = ['UTC', 'Europe/Berlin', 'America/New_York', 'Australia/Lord_Howe', 'Asia/Kolkata']
  const expressions = ['30 2 * * *', '*/20 * * * *', '0 0 29 2 *', '15 30 3 * * 0', '0 12 L * *']
  const schedules: Schedule[] = [
    ...zones.flatMap((timezone) => expressions.map((cron) => toSchedule({ cron, timezone }))),
    toSchedule({ every: 7 * HOUR_MS, from: 0 }),
    toSchedule({ every: 1000, from: Date.UTC(2040, 1, 1) }),
  ]
  // Weeks in which clocks are changed, on both halves of the earth, and others.
  const times = fc.oneof(
    fc.integer({ min: Date.UTC(2026, 2, 25), max: Date.UTC(2026, 3, 8) }),
    fc.integer({ min: Date.UTC(2026, 9, 1), max: Date.UTC(2026, 10, 5) }),
    fc.integer({ min: Date.UTC(2020, 0, 1), max: Date.UTC(2035, 0, 1) }),
  )

  it('are the same forwards and backwards', () => {
    fc.assert(
      fc.property(fc.constantFrom(...schedules), times, (schedule, time) => {
        const latest = schedule.latest(time)!
        expect(latest).toBeLessThanOrEqual(time)
        const next = schedule.next(latest)!
        expect(next).toBeGreaterThan(time)
        expect(schedule.next(time)).toBe(next)
        expect(schedule.latest(next)).toBe(next)
        expect(schedule.latest(next - 1)).toBe(latest)
      }),
      { numRuns: 300 },
    )
  })

  it('come once a day when clocks are changed', () => {
    const nightly = toSchedule({ cron: '30 2 * * *', timezone: 'Europe/Berlin' })
    for (const [from, days] of [
      [Date.UTC(2026, 2, 27), 5],
      [Date.UTC(2026, 9, 23), 5],
    ] as const) {
      const instants: number[] = []
      for (let at = nightly.next(from)!; at < from + days * DAY_MS; at = nightly.next(at)!) instants.push(at)
      expect(new Set(instants.map((at) => new Date(at).toISOString().slice(0, 10))).size).toBe(days)
      expect(instants).toHaveLength(days)
    }
  })
})

describe('jobs in memory, with fake timers', () => {
  afterEach(() => {
    vi.useRealTimers()
  })

  it('need no second of a test', async () => {
    vi.useFakeTimers({ now: Date.UTC(2026, 2, 27) })
    const locks = createLocks(fromMemory(new MemoryDatabase()))
    const nights: string[] = []
    const hours: number[] = []
    const job = locks.cron('30 2 * * *', 'report', { timezone: 'Europe/Berlin' }, ({ scheduledAt }) => {
      nights.push(scheduledAt.toISOString())
    })
    const hourly = locks.every('1h', 'sync', {}, ({ scheduledAt }) => {
      hours.push(scheduledAt.getTime())
    })
    await vi.advanceTimersByTimeAsync(5 * DAY_MS)
    await Promise.all([job.stop(), hourly.stop()])
    expect(nights).toEqual(
      ['27T01', '28T01', '29T01', '30T00', '31T00'].map((at) => expect.stringContaining(`2026-03-${at}`)),
    )
    expect(hours).toEqual(hours.map((_, index) => hours[0]! + index * HOUR_MS))
    expect(hours.length).toBeGreaterThanOrEqual(119)
    await locks.close()
    expect(vi.getTimerCount()).toBe(0)
  })

  it('of many that are idle next to nothing is sent', async () => {
    vi.useFakeTimers()
    const adapter = fromMemory(new MemoryDatabase())
    const locks = createLocks(adapter)
    const jobs = Array.from({ length: 100 }, (_, index) =>
      locks.every('1d', `idle ${index}`, { from: new Date(Date.now() + 12 * HOUR_MS) }, () => undefined),
    )
    await vi.advanceTimersByTimeAsync(1000)
    const reads = vi.spyOn(adapter.database.marks, 'values')
    await vi.advanceTimersByTimeAsync(HOUR_MS)
    // One look at the clock each minute.
    expect(reads.mock.calls.length).toBeLessThanOrEqual(61)
    await Promise.all(jobs.map((job) => job.stop()))
    await locks.close()
  })
})
