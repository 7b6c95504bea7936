import { expect, it } from 'vitest'
import { createLocks, type Lease, type Locks } from '../../src/index.ts'
import { freshName } from '../engines.ts'
import { DEFAULTS, type Subject, settled, sleep, tap, untilWaiting } from './harness.ts'

export function closeSuite(subject: Subject): void {
  it('releases what the instance holds, and nothing else', async () => {
    const { database, locks, others } = subject
    const closing = await database.locks(DEFAULTS)
    const prefix = freshName()
    const mine = await Promise.all([1, 2, 3].map((each) => closing.acquire(`${prefix}:${each}`)))
    const foreign = await locks.acquire(`${prefix}:foreign`)
    await closing.close()
    expect((await others.list({ prefix })).map(({ name }) => name)).toEqual([foreign.name])
    for (const lease of mine) {
      expect(lease.isHeld()).toBe(false)
      expect(await lease.release()).toBe(true)
      await expect(lease.extend('1m')).rejects.toMatchObject({ code: 'LOCK_LOST' })
    }
    expect(await foreign.release()).toBe(true)
  })

  it('tells those at work before anybody else can get the lock, and a run does not pass for protected', async () => {
    const { database, others } = subject
    const closing = await database.locks(DEFAULTS)
    const name = freshName()
    const running = settled(
      closing.run(name, {}, async (lease) => {
        const aborted = new Promise((resolve) => lease.signal.addEventListener('abort', resolve))
        const closed = closing.close()
        await aborted
        await closed
        return lease.signal.reason as unknown
      }),
    )
    expect(await running).toMatchObject({
      status: 'rejected',
      reason: { code: 'LOCK_LOST', result: { code: 'LOCK_LOST', message: expect.stringContaining('closed') } },
    })
    expect(await others.inspect(name)).toBeNull()
  })

  it('rejects those who wait, with an error that says what to do', async () => {
    const { database, others } = subject
    const closing = await database.locks(DEFAULTS)
    const name = freshName()
    const lease = await others.acquire(name)
    const body = () => expect.unreachable('the body must not run')
    const waiting = [closing.acquire(name), closing.acquire(name, { wait: Number.POSITIVE_INFINITY })].map(settled)
    const running = settled(closing.run(name, {}, body))
    await untilWaiting(closing, name, 3)
    await closing.close()
    for (const outcome of [...(await Promise.all(waiting)), await running]) {
      expect(outcome).toMatchObject({
        status: 'rejected',
        reason: { code: 'INVALID_ARGUMENT', message: expect.stringContaining('createLocks') },
      })
    }
    await lease.release()
    expect(await others.inspect(name)).toBeNull()
  })

  it('refuses every later call, with an error that says what to do', async () => {
    const { database, locks } = subject
    const closed = await database.locks(DEFAULTS)
    await closed.close()
    const name = freshName()
    const lease = await locks.acquire(name)
    const json = lease.toJSON()
    const body = () => expect.unreachable('the body must not run')
    const calls: Record<string, () => unknown> = {
      migrate: () => closed.migrate(),
      acquire: () => closed.acquire(name),
      tryAcquire: () => closed.tryAcquire(name),
      run: () => closed.run(name, {}, body),
      tryRun: () => closed.tryRun(name, {}, body),
      restore: () => closed.restore(json),
      inspect: () => closed.inspect(name),
      list: () => closed.list(),
      forceRelease: () => closed.forceRelease(name),
      purge: () => closed.purge({ idleFor: 0 }),
      within: () => closed.within({}),
    }
    for (const [verb, call] of Object.entries(calls)) {
      expect(await settled((async () => call())()), verb).toMatchObject({
        status: 'rejected',
        reason: { code: 'INVALID_ARGUMENT', message: expect.stringContaining('createLocks') },
      })
    }
    expect(await lease.release()).toBe(true)
  })

  it('can be called again, and at once', async () => {
    const { database } = subject
    const closing = await database.locks(DEFAULTS)
    const lease = await closing.acquire(freshName())
    await Promise.all([closing.close(), closing.close(), lease.release()])
    await closing.close()
  })

  it('is what `await using` calls', async () => {
    const { connected, others } = subject
    const name = freshName()
    {
      await using locks = createLocks(connected.adapter, DEFAULTS)
      await locks.acquire(name)
    }
    await (await others.acquire(name, { wait: 0 })).release()
  })

  it('leaves the connection to its owner', async () => {
    const { connected } = subject
    const first = createLocks(connected.adapter, DEFAULTS)
    await first.acquire(freshName())
    await first.close()
    const second = createLocks(connected.adapter, DEFAULTS)
    await (await second.acquire(freshName())).release()
    await second.close()
  })

  it('tells listeners of what it releases, and of nothing after that', async () => {
    const { database } = subject
    const closing = await database.locks(DEFAULTS)
    const types: string[] = []
    closing.on((event) => types.push(event.type))
    const lease = await closing.acquire(freshName())
    await closing.close()
    expect(types).toEqual(['acquired', 'released'])
    await settled(closing.acquire(lease.name))
    expect(types).toEqual(['acquired', 'released'])
  })

  it('leaks no lock and no lease when it crosses an acquire', async () => {
    for (let round = 0; round < 30; round++) {
      // Both in time and in turns of the event loop: an answer can be on its way through the promises of this process.
      await closeAcross(
        subject,
        (locks, name) => locks.acquire(name),
        () => sleep(Math.random() * 3),
      )
      await closeAcross(
        subject,
        (locks, name) => locks.tryAcquire(name),
        () => turns(round),
      )
    }
  })

  it('leaks no lease when it crosses a restore', async () => {
    for (let round = 0; round < 10; round++) {
      const lease = await subject.locks.acquire(freshName())
      const restore = (locks: Locks<unknown>) => locks.restore(lease.toJSON())
      const restored = await crossClose(subject, restore, () =>
        round % 2 === 0 ? turns(round) : sleep(Math.random() * 3),
      )
      expect(restored?.isHeld() ?? false).toBe(false)
      await lease.release()
    }
  })

  it.skipIf(subject.engine.engine === 'memory')('sends nothing more to the database', async () => {
    const { connected, others } = subject
    const tapped = tap(connected.adapter)
    const closing = createLocks(tapped.adapter, { ...DEFAULTS, ttl: '2s' })
    const name = freshName()
    const lease = await others.acquire(name)
    await Promise.all([closing.acquire(freshName()), closing.acquire(freshName(), { ttl: '300ms' })])
    const waiting = settled(closing.acquire(name))
    await untilWaiting(closing, name)
    await closing.close()
    await waiting
    const sent = tapped.statements.length
    await sleep(400)
    expect(tapped.statements.slice(sent)).toEqual([])
    await lease.release()
  })

  it.skipIf(subject.engine.engine === 'memory')('sends nothing while there is nothing to do', async () => {
    const { connected, others } = subject
    const tapped = tap(connected.adapter)
    const locks = createLocks(tapped.adapter, DEFAULTS)
    const name = freshName()
    const lease = await others.acquire(name)
    await expect(locks.acquire(name, { wait: 100 })).rejects.toMatchObject({ code: 'LOCK_TIMEOUT' })
    const sent = tapped.statements.length
    await sleep(300)
    expect(tapped.statements.slice(sent)).toEqual([])
    await locks.close()
    await lease.release()
  })
}

async function closeAcross(
  subject: Subject,
  take: (locks: Locks<unknown>, name: string) => Promise<Lease<unknown> | null>,
  pause: () => Promise<void>,
): Promise<void> {
  const name = freshName()
  const lease = await crossClose(subject, (locks) => take(locks, name), pause)
  expect(lease?.isHeld() ?? false).toBe(false)
  expect(await subject.others.inspect(name)).toBeNull()
}

/** Calls, and closes meanwhile: answers the lease, if there is one nevertheless. */
async function crossClose(
  { connected }: Subject,
  take: (locks: Locks<unknown>) => Promise<Lease<unknown> | null>,
  pause: () => Promise<void>,
): Promise<Lease<unknown> | null> {
  const closing = createLocks(connected.adapter, DEFAULTS)
  const taking = settled(take(closing))
  await pause()
  await closing.close()
  const outcome = await taking
  if (outcome.status === 'fulfilled') return outcome.value
  expect(outcome.reason).toMatchObject({ code: 'INVALID_ARGUMENT' })
  return null
}

async function turns(count: number): Promise<void> {
  for (let turn = 0; turn < count; turn++) await null
}
