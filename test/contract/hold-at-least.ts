import { expect, it } from 'vitest'
import { createLocks } from '../../src/index.ts'
import { freshName } from '../engines.ts'
import { DEFAULTS, eventually, recordEvents, type Subject, settled, untilWaiting } from './harness.ts'

/** A lock that stays taken for a while, though the body of its run has ended. */
export function holdAtLeastSuite(subject: Subject): void {
  it('stays taken until its time is over, and is free then', async () => {
    const { locks, others } = subject
    const name = freshName()
    const events = recordEvents(locks)
    expect(await locks.run(name, { holdAtLeast: '1s', metadata: 'kept' }, () => 'done')).toBe('done')
    expect(await others.tryAcquire(name)).toBeNull()
    expect((await others.inspect(name))!.holders[0]!.metadata).toBe('kept')
    const next = await others.acquire(name)
    const types = () => events.map(({ type }) => type).filter((type) => type !== 'renewed')
    await eventually(() => expect(types()).toEqual(['acquired', 'released']))
    await next.release()
  })

  it('stays taken after a body that rejects, and is free at once after one that took longer', async () => {
    const { locks, others } = subject
    const [failed, long] = [freshName(), freshName()]
    const failure = new Error('not today')
    const run = locks.run(failed, { holdAtLeast: '1s' }, () => Promise.reject(failure))
    await expect(run).rejects.toBe(failure)
    expect(await others.tryAcquire(failed)).toBeNull()
    await locks.run(long, { holdAtLeast: 1 }, async (lease) => {
      await new Promise((resolve) => setTimeout(resolve, 20))
      expect(lease.isHeld()).toBe(true)
    })
    await (await others.acquire(long, { wait: 0 })).release()
    await (await others.acquire(failed)).release()
  })

  it('lasts for as long in the database, however short its ttl is, also if it was handed over', async () => {
    const { locks, others } = subject
    const [name, handed] = [freshName(), freshName()]
    expect(await locks.tryRun(name, { ttl: '500ms', holdAtLeast: '30s' }, () => 1)).toEqual({ ran: true, value: 1 })
    expect((await others.inspect(name))!.expiresInMs).toBeGreaterThan(10_000)
    const holder = await others.acquire(handed)
    const waiting = locks.run(handed, { ttl: '500ms', holdAtLeast: '30s' }, () => 2)
    await untilWaiting(others, handed)
    await holder.release()
    expect(await waiting).toBe(2)
    expect((await others.inspect(handed))!.expiresInMs).toBeGreaterThan(10_000)
    expect(await others.forceRelease(name)).toBe(true)
    expect(await others.forceRelease(handed)).toBe(true)
  })

  it('stays taken when the instance is closed, whether the body has ended or not', async () => {
    const { others, connected } = subject
    const [ended, open] = [freshName(), freshName()]
    const locks = createLocks(connected.adapter, DEFAULTS)
    await locks.run(ended, { holdAtLeast: '30s' }, () => undefined)
    let aborted = false
    let begun = false
    const running = settled(
      locks.run(open, { holdAtLeast: '30s' }, async ({ signal }) => {
        begun = true
        await new Promise((resolve) => signal.addEventListener('abort', resolve))
        aborted = signal.aborted
      }),
    )
    await eventually(() => expect(begun).toBe(true))
    await locks.close()
    await running
    expect(aborted).toBe(true)
    for (const name of [ended, open]) {
      expect(await others.tryAcquire(name)).toBeNull()
      await others.forceRelease(name)
    }
  })

  it('is refused where it cannot be kept, before anything is taken', async () => {
    const { locks } = subject
    const name = freshName()
    const wrong = [
      { holdAtLeast: -1 },
      { holdAtLeast: 'long' as never },
      { holdAtLeast: '1s', takeover: 'session' },
      { holdAtLeast: '2s', maxHold: '1s' },
    ] as const
    for (const options of wrong) {
      await expect(locks.run(name, options, () => 1)).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' })
    }
    expect(await locks.inspect(name)).toBeNull()
    await locks.run(name, {}, async (lease) => {
      const again = locks.run(name, { reenter: true, holdAtLeast: '1s' }, () => 1)
      await expect(again).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' })
      expect(lease.isHeld()).toBe(true)
    })
    const semaphore = locks.semaphore(freshName(), { permits: 1 })
    const run = semaphore.run({ holdAtLeast: '1s' } as never, () => 1)
    await expect(run).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' })
  })
}
