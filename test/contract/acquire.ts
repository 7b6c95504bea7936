import { getEventListeners } from 'node:events'
import { hostname } from 'node:os'
import { expect, it } from 'vitest'
import { createLocks, type Lease, LockTimeoutError } from '../../src/index.ts'
import { freshName } from '../engines.ts'
import {
  connectionReset,
  DEFAULTS,
  eventOf,
  eventually,
  recordEvents,
  type Subject,
  settled,
  sleep,
  tap,
  untilWaiting,
} from './harness.ts'

export function acquireSuite(subject: Subject): void {
  it('grants a lock to one holder at a time', async () => {
    const { locks, others } = subject
    const name = freshName()
    const lease = await locks.acquire(name)
    expect(lease.isHeld()).toBe(true)
    expect(await others.tryAcquire(name)).toBeNull()
    expect(await locks.tryAcquire(name)).toBeNull()
    await lease.release()
    const next = await others.tryAcquire(name)
    expect(next?.isHeld()).toBe(true)
    await next?.release()
  })

  it('grants a new name, and a used one, to exactly one of many who try at once', async () => {
    const { locks, others } = subject
    const name = freshName()
    for (const _ of ['new', 'used']) {
      const tries = Array.from({ length: 20 }, (_, index) => (index % 2 === 0 ? locks : others).tryAcquire(name))
      const leases = (await Promise.all(tries)).filter((lease) => lease !== null)
      expect(leases).toHaveLength(1)
      await leases[0]?.release()
    }
  })

  it('lets different names be held at once', async () => {
    const { locks, others } = subject
    const [one, two] = await Promise.all([locks.acquire(freshName()), others.acquire(freshName())])
    expect([one.isHeld(), two.isHeld()]).toEqual([true, true])
    await Promise.all([one.release(), two.release()])
  })

  it('waits for a lock that is held, and gets it after its release', async () => {
    const { locks, others } = subject
    const name = freshName()
    const first = await others.acquire(name)
    const waiting = locks.acquire(name)
    await untilWaiting(locks, name)
    await first.release()
    const second = await waiting
    expect(second.isHeld()).toBe(true)
    expect(second.token).toBeGreaterThan(first.token)
    await second.release()
  })

  it('waits without a limit when wait is Infinity', async () => {
    const { locks, others } = subject
    const name = freshName()
    const first = await others.acquire(name)
    const waiting = locks.acquire(name, { wait: Number.POSITIVE_INFINITY })
    await untilWaiting(locks, name)
    await first.release()
    await (await waiting).release()
  })

  it('fails with LockTimeoutError, which names the lock and its holder, when it stays held for all of wait', async () => {
    const { locks, others } = subject
    const name = freshName()
    const events = recordEvents(locks)
    const lease = await others.acquire(name)
    const error = await locks.acquire(name, { wait: '150ms' }).catch((error: unknown) => error)
    expect(error).toBeInstanceOf(LockTimeoutError)
    expect(error).toMatchObject({ code: 'LOCK_TIMEOUT', lock: name })
    expect((error as Error).message).toContain(JSON.stringify(name))
    expect((error as Error).message).toContain(`${hostname()}:${process.pid}`)
    expect(events).toContainEqual({ type: 'timeout', name, waitedMs: expect.any(Number) })
    await untilWaiting(locks, name, 0)
    await lease.release()
  })

  it('asks just once when wait is 0', async () => {
    const { locks, others } = subject
    const name = freshName()
    const lease = await locks.acquire(name, { wait: 0 })
    await expect(others.acquire(name, { wait: 0 })).rejects.toMatchObject({ code: 'LOCK_TIMEOUT' })
    await lease.release()
  })

  it('rejects with the reason of a signal that has aborted before, and takes nothing', async () => {
    const { locks, others } = subject
    const name = freshName()
    const reason = new Error('too late')
    const signal = AbortSignal.abort(reason)
    await expect(locks.acquire(name, { signal })).rejects.toBe(reason)
    await expect(locks.tryAcquire(name, { signal })).rejects.toBe(reason)
    const body = () => expect.unreachable('the body must not run')
    await expect(locks.run(name, { signal }, body)).rejects.toBe(reason)
    await (await others.acquire(name, { wait: 0 })).release()
  })

  it('rejects with the reason of a signal that aborts the wait, and leaves nothing behind', async () => {
    const { locks, others } = subject
    const name = freshName()
    const controller = new AbortController()
    const lease = await others.acquire(name)
    const waiting = locks.acquire(name, { signal: controller.signal })
    await untilWaiting(locks, name)
    const reason = { any: 'value' }
    controller.abort(reason)
    await expect(waiting).rejects.toBe(reason)
    await untilWaiting(locks, name, 0)
    await lease.release()
    await (await others.acquire(name, { wait: 0 })).release()
  })

  it('does not let go of a lease when the signal of its acquire aborts later', async () => {
    const { locks } = subject
    const controller = new AbortController()
    const lease = await locks.acquire(freshName(), { signal: controller.signal })
    controller.abort()
    expect(lease.isHeld()).toBe(true)
    expect(lease.signal.aborted).toBe(false)
    expect(await lease.release()).toBe(true)
  })

  it('leaves no listener on a signal that outlives its calls', async () => {
    const { locks, others } = subject
    const { signal } = new AbortController()
    const lease = await others.acquire(freshName(), { signal })
    expect(await locks.tryAcquire(lease.name, { signal })).toBeNull()
    await settled(locks.acquire(lease.name, { signal, wait: 100 }))
    const waiting = locks.acquire(lease.name, { signal })
    await untilWaiting(locks, lease.name)
    await lease.release()
    await (await waiting).release()
    expect(getEventListeners(signal, 'abort')).toEqual([])
  })

  it('leaks no lock when an abort crosses the grant of a free one', async () => {
    const locks = await subject.database.locks(DEFAULTS)
    const prefix = freshName()
    let granted = 0
    for (let round = 0; round < 50; round++) {
      granted += (await abortAfter(Math.random() * 4, (signal) => locks.acquire(`${prefix}:${round}`, { signal })))
        ? 1
        : 0
      await freeFor(subject, `${prefix}:${round}`)
    }
    // Waits for what goes on in the background.
    await locks.close()
    expect(await subject.others.list({ prefix })).toEqual([])
    expect(granted).toBeLessThanOrEqual(50)
  })

  it('leaks no lock when an abort crosses the release that a waiter has waited for', async () => {
    const locks = await subject.database.locks(DEFAULTS)
    const prefix = freshName()
    for (let round = 0; round < 50; round++) {
      const name = `${prefix}:${round}`
      // Of the same instance, so that the release wakes the waiter at once.
      const first = await locks.acquire(name)
      const released = sleep(Math.random() * 3).then(() => first.release())
      await abortAfter(Math.random() * 8, (signal) => locks.acquire(name, { signal }))
      await released
      await freeFor(subject, name)
    }
    await locks.close()
    // What was handed to a caller who could not leave in time is free when it was not claimed.
    await eventually(async () => expect(await subject.others.list({ prefix })).toEqual([]))
  })

  it('takes over a lock whose lease ran out, with a higher token, and says so', async () => {
    const { locks, others } = subject
    const name = freshName()
    const events = recordEvents(others)
    const abandoned = await locks.acquire(name, { ttl: '300ms', renew: false })
    const lease = await others.acquire(name)
    expect(lease.token).toBeGreaterThan(abandoned.token)
    expect(abandoned.isHeld()).toBe(false)
    const { owner, token } = lease
    expect(await eventOf(events, 'takeover', name)).toEqual({
      type: 'takeover',
      name,
      owner,
      token,
      mode: 'exclusive',
    })
    expect(await abandoned.release()).toBe(false)
    expect(lease.isHeld()).toBe(true)
    await lease.release()
  })

  it('does not speak of a takeover when the last holder released, or was made to', async () => {
    const { locks, others } = subject
    const name = freshName()
    const events = recordEvents(others)
    await (await locks.acquire(name)).release()
    await (await others.acquire(name)).release()
    await locks.acquire(name)
    await locks.forceRelease(name)
    await (await others.acquire(name)).release()
    expect(events.filter(({ type }) => type === 'acquired')).toHaveLength(2)
    expect(events.filter(({ type }) => type === 'takeover')).toEqual([])
  })

  it.skipIf(subject.engine.engine === 'memory')(
    'takes no failure of the database for a lock that is held',
    async () => {
      const { adapter, ...tapped } = tapOf(subject)
      const locks = createLocks(adapter, DEFAULTS)
      const cause = connectionReset()
      tapped.fail(cause)
      await expect(locks.tryAcquire(freshName())).rejects.toMatchObject({ code: 'DATABASE', cause })
      await expect(locks.acquire(freshName(), { wait: 50 })).rejects.toMatchObject({ code: 'DATABASE', cause })
      await locks.close()
    },
  )

  // A file has no replies to lose.
  it.skipIf(['memory', 'sqlite'].includes(subject.engine.engine))(
    'recognises its own grant when the reply to it was lost',
    async () => {
      const { others } = subject
      const name = freshName()
      const { adapter, ...tapped } = tapOf(subject)
      const locks = createLocks(adapter, DEFAULTS)
      let lost = 0
      tapped.intercept(async (forward) => {
        const answer = await forward()
        if (lost < 1 && (await others.inspect(name)) !== null) {
          lost++
          throw connectionReset()
        }
        return answer
      })
      const lease = await locks.acquire(name)
      expect(lost).toBe(1)
      expect(await others.inspect(name)).toMatchObject({ owner: lease.owner, token: lease.token })
      expect(await lease.release()).toBe(true)
      expect(await others.list({ prefix: name })).toEqual([])
      await locks.close()
    },
  )
}

function tapOf({ connected }: Subject) {
  const tapped = tap(connected.adapter)
  return {
    adapter: tapped.adapter,
    fail: (cause: Error) => {
      tapped.intercept = () => Promise.reject(cause)
    },
    intercept: (intercept: typeof tapped.intercept) => {
      tapped.intercept = intercept
    },
  }
}

/** Aborts an acquire after `ms`; whether it was granted nevertheless. What it was granted is checked, and released. */
async function abortAfter(ms: number, acquire: (signal: AbortSignal) => Promise<Lease<unknown>>): Promise<boolean> {
  const controller = new AbortController()
  const reason = new Error('aborted by the test')
  const acquiring = settled(acquire(controller.signal))
  await sleep(ms)
  controller.abort(reason)
  const outcome = await acquiring
  if (outcome.status === 'rejected') {
    expect(outcome.reason).toBe(reason)
    return false
  }
  expect(outcome.value.isHeld()).toBe(true)
  expect(await outcome.value.release()).toBe(true)
  return true
}

/** A grant that was too late for its caller is given back at once. */
async function freeFor({ others }: Subject, name: string): Promise<void> {
  await eventually(async () => {
    const lease = await others.tryAcquire(name)
    expect(lease).not.toBeNull()
    await lease?.release()
  })
}
