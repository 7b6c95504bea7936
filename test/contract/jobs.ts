import { expect, it } from 'vitest'
import type { EveryOptions, Job, JobRun, Locks } from '../../src/index.ts'
import { freshName } from '../engines.ts'
import { eventually, recordEvents, type Subject, settled, sleep } from './harness.ts'

const PERIOD_MS = 400

export function jobsSuite(subject: Subject): void {
  /** Jobs of both instances, which are stopped at the end. */
  async function withJobs(body: (begin: Begin) => Promise<void>): Promise<void> {
    const jobs: Job[] = []
    try {
      await body((locks, name, options, run) => {
        const job = locks.every(PERIOD_MS, name, options, run)
        jobs.push(job)
        return job
      })
    } finally {
      await Promise.all(jobs.map((job) => job.stop()))
    }
  }
  type Begin = (
    locks: Locks<unknown>,
    name: string,
    options: EveryOptions,
    run: (run: JobRun<unknown>) => unknown,
  ) => Job

  const at = ({ scheduledAt }: JobRun<unknown>) => scheduledAt.getTime()

  it('runs once in each period, in one of all processes, at multiples of the period', async () => {
    const { locks, others } = subject
    const name = freshName()
    const runs: number[] = []
    await withJobs(async (begin) => {
      for (const each of [locks, others]) {
        begin(each, name, {}, (run) => {
          expect(run.lease.isHeld()).toBe(true)
          expect(run.lease.name).toBe(name)
          expect(run.signal.aborted).toBe(false)
          runs.push(at(run))
        })
      }
      await eventually(() => expect(runs.length).toBeGreaterThan(3))
    })
    expect(runs.map((run) => run % PERIOD_MS)).toEqual(runs.map(() => 0))
    expect(new Set(runs).size).toBe(runs.length)
    expect([...runs].sort((a, b) => a - b)).toEqual(runs)
    const { length } = runs
    await sleep(2 * PERIOD_MS)
    expect(runs).toHaveLength(length)
    expect(await locks.inspect(name)).toBeNull()
  })

  it('counts periods from a time that is given', async () => {
    const { locks } = subject
    const runs: number[] = []
    await withJobs(async (begin) => {
      begin(locks, freshName(), { from: new Date(123) }, (run) => runs.push(at(run)))
      await eventually(() => expect(runs.length).toBeGreaterThan(1))
    })
    expect(runs.map((run) => (run - 123) % PERIOD_MS)).toEqual(runs.map(() => 0))
  })

  it('runs do not overlap, however long they take', async () => {
    const { locks, others } = subject
    const name = freshName()
    let running = 0
    let most = 0
    let runs = 0
    await withJobs(async (begin) => {
      for (const each of [locks, others]) {
        begin(each, name, {}, async () => {
          most = Math.max(most, ++running)
          await sleep(2.5 * PERIOD_MS)
          running--
          runs++
        })
      }
      await eventually(() => expect(runs).toBeGreaterThan(1))
    })
    expect(most).toBe(1)
  })

  it('a run that fails is an event, and not the end of the job; at most once, it is not repeated', async () => {
    const { locks } = subject
    const name = freshName()
    const events = recordEvents(locks)
    const runs: number[] = []
    const failure = new Error('not today')
    await withJobs(async (begin) => {
      begin(locks, name, {}, (run) => {
        runs.push(at(run))
        expect(run.lastSuccess).toBeNull()
        throw failure
      })
      await eventually(() => expect(runs.length).toBeGreaterThan(2))
    })
    expect(new Set(runs).size).toBe(runs.length)
    const errors = events.filter((event) => event.type === 'error')
    expect(errors.map(({ cause }) => cause)).toContain(failure)
  })

  it('a run that fails is taken up again, by whoever is there, if it is to be at least once', async () => {
    const { locks, others } = subject
    const name = freshName()
    const attempts: number[] = []
    const succeeded: number[] = []
    await withJobs(async (begin) => {
      for (const each of [locks, others]) {
        begin(each, name, { guarantee: 'at-least-once' }, (run) => {
          attempts.push(at(run))
          if (attempts.filter((attempt) => attempt === at(run)).length < 2) throw new Error('not yet')
          succeeded.push(at(run))
        })
      }
      await eventually(() => expect(succeeded.length).toBeGreaterThan(1))
    })
    expect(new Set(succeeded).size).toBe(succeeded.length)
    for (const run of succeeded) expect(attempts.filter((attempt) => attempt === run)).toHaveLength(2)
  })

  it('tells when it last succeeded', async () => {
    const { locks } = subject
    const told: (Date | null)[] = []
    await withJobs(async (begin) => {
      begin(locks, freshName(), {}, ({ lastSuccess }) => told.push(lastSuccess))
      await eventually(() => expect(told.length).toBeGreaterThan(2))
    })
    expect(told[0]).toBeNull()
    expect(told[1]).toBeInstanceOf(Date)
    expect(told[2]!.getTime()).toBeGreaterThan(told[1]!.getTime())
  })

  it('what was missed while nobody was there is skipped, or made up for by one run', async () => {
    const { locks, others } = subject
    const names = { skip: freshName(), once: freshName() }
    for (const name of Object.values(names)) {
      const runs: number[] = []
      await withJobs(async (begin) => {
        begin(locks, name, {}, (run) => runs.push(at(run)))
        await eventually(() => expect(runs.length).toBeGreaterThan(0))
      })
    }
    await sleep(3 * PERIOD_MS)
    for (const missed of ['skip', 'once'] as const) {
      const runs: number[] = []
      const firstSeen: number[] = []
      await withJobs(async (begin) => {
        const job = begin(others, names[missed], { missed }, (run) => runs.push(at(run)))
        await eventually(() => expect(runs.length).toBeGreaterThan(1))
        firstSeen.push(job.next()!.getTime())
      })
      // Consecutive ones, of which the first was before its process came, or not.
      expect(runs[1]! - runs[0]!).toBe(PERIOD_MS)
    }
  })

  it('a run that loses its lease is told, and does not count as a success', async () => {
    const { locks, others } = subject
    const name = freshName()
    const events = recordEvents(locks)
    const told: unknown[] = []
    await withJobs(async (begin) => {
      begin(locks, name, { ttl: '20s' }, async ({ lease, signal, lastSuccess }) => {
        expect(lastSuccess).toBeNull()
        if (told.length > 0) return
        expect(await others.forceRelease(name)).toBe(true)
        await settled(lease.extend('20s'))
        told.push(signal.reason)
      })
      await eventually(() => expect(told).toHaveLength(1))
    })
    expect(told[0]).toMatchObject({ code: 'LOCK_LOST' })
    expect(events.filter((event) => event.type === 'error').map(({ cause }) => cause)).toContainEqual(
      expect.objectContaining({ code: 'LOCK_LOST' }),
    )
  })

  it('stop waits for the run under way, and none begins after it', async () => {
    const { locks } = subject
    const name = freshName()
    let ended = false
    let runs = 0
    const job = locks.every(PERIOD_MS, name, {}, async () => {
      runs++
      await sleep(PERIOD_MS)
      ended = true
    })
    expect(job.next()!.getTime() % PERIOD_MS).toBe(0)
    await eventually(() => expect(job.running).toBe(true))
    expect(() => locks.every(PERIOD_MS, name, {}, () => undefined)).toThrow(/already/)
    await job.stop()
    expect([ended, job.running, job.next()]).toEqual([true, false, null])
    const before = runs
    await sleep(2 * PERIOD_MS)
    expect(runs).toBe(before)
    // There is room for another one now.
    await locks.every(PERIOD_MS, name, {}, () => undefined).stop()
  })

  it('stop in a run does not wait for that run', async () => {
    const { locks } = subject
    let stopped = false
    const job = locks.every(PERIOD_MS, freshName(), {}, async () => {
      await job.stop()
      stopped = true
    })
    await eventually(() => expect(stopped).toBe(true))
    await eventually(() => expect(job.running).toBe(false))
  })

  it('a period that a later process says counts for all, who are warned', async () => {
    const { locks, others } = subject
    const name = freshName()
    const [ofFirst, ofSecond] = [recordEvents(locks), recordEvents(others)]
    const runs: number[] = []
    const first = locks.every(PERIOD_MS, name, {}, (run) => runs.push(at(run)))
    await eventually(() => expect(runs.length).toBeGreaterThan(0))
    const second = others.every(3 * PERIOD_MS, name, {}, (run) => runs.push(at(run)))
    await eventually(() => expect(ofSecond.map(({ type }) => type)).toContain('warning'))
    await eventually(() => expect(ofFirst.map(({ type }) => type)).toContain('warning'))
    runs.length = 0
    await eventually(() => expect(runs.length).toBeGreaterThan(1))
    for (const run of runs) expect(run % (3 * PERIOD_MS)).toBe(0)
    await Promise.all([first.stop(), second.stop()])
  })

  it('crons run once at each of their instants', async () => {
    const { locks, others } = subject
    const name = freshName()
    const runs: number[] = []
    const jobs = [locks, others].map((each) =>
      each.cron('* * * * * *', name, { timezone: 'Europe/Berlin' }, (run) => runs.push(at(run))),
    )
    await eventually(() => expect(runs.length).toBeGreaterThan(2))
    await Promise.all(jobs.map((job) => job.stop()))
    expect(runs).toEqual(runs.map((_, index) => runs[0]! + index * 1000))
  })

  it('refuses what is wrong at once', async () => {
    const { locks } = subject
    const name = freshName()
    const body = () => undefined
    const wrong = [
      () => locks.every(99, name, {}, body),
      () => locks.every('400d', name, {}, body),
      () => locks.every('soon' as never, name, {}, body),
      () => locks.every('1m', '', {}, body),
      () => locks.every('1m', name, { guarantee: 'always' as never }, body),
      () => locks.every('1m', name, { missed: 'all' as never }, body),
      () => locks.every('1m', name, { from: 'now' as never }, body),
      () => locks.every('1m', name, { mode: 'shared' } as never, body),
      () => locks.every('1m', name, { ttl: 1 }, body),
      () => locks.every('1m', name, {}, undefined as never),
      () => locks.cron('every minute', name, {}, body),
      () => locks.cron('0 0 30 2 *', name, {}, body),
      () => locks.cron('* * * * *', name, { timezone: 'Mars/Olympus' }, body),
      () => locks.cron(7 as never, name, {}, body),
    ]
    for (const call of wrong) expect(call).toThrow(expect.objectContaining({ code: 'INVALID_ARGUMENT' }))
    expect(await locks.inspect(name)).toBeNull()
  })
}
