import { expect, it } from 'vitest'
import { createLocks, LockLostError } from '../../src/index.ts'
import { freshName } from '../engines.ts'
import { DEFAULTS, recordEvents, type Subject, settled, sleep, tap } from './harness.ts'

export function runSuite(subject: Subject): void {
  it('runs the body under a lease, answers what it answers, and releases', async () => {
    const { locks, others } = subject
    const name = freshName()
    const value = await locks.run(name, { ttl: '10s' }, async (lease) => {
      expect(lease.name).toBe(name)
      expect(lease.isHeld()).toBe(true)
      expect(await others.tryAcquire(name)).toBeNull()
      return { lease }
    })
    expect(value.lease.isHeld()).toBe(false)
    await (await others.acquire(name, { wait: 0 })).release()
    expect(await locks.tryRun(name, {}, () => 42)).toEqual({ ran: true, value: 42 })
    await (await others.acquire(name, { wait: 0 })).release()
  })

  it('takes synchronous bodies, and bodies without an answer', async () => {
    const { locks } = subject
    expect(await locks.run(freshName(), {}, () => 'value')).toBe('value')
    expect(await locks.run(freshName(), {}, () => undefined)).toBeUndefined()
    expect(await locks.tryRun(freshName(), {}, () => undefined)).toEqual({ ran: true, value: undefined })
  })

  it('rejects with what the body rejects with or throws, unchanged, and releases', async () => {
    const { locks, others } = subject
    const name = freshName()
    const failure = Object.freeze({ some: 'value that is no Error' })
    const bodies = [
      () => Promise.reject(failure),
      () => {
        throw failure
      },
    ]
    for (const body of bodies) {
      await expect(locks.run(name, {}, body)).rejects.toBe(failure)
      await (await others.acquire(name, { wait: 0 })).release()
      await expect(locks.tryRun(name, {}, body)).rejects.toBe(failure)
      await (await others.acquire(name, { wait: 0 })).release()
    }
  })

  it('rejects with the error of the body even when the lease was lost as well', async () => {
    const { locks, others } = subject
    const name = freshName()
    const failure = new Error('the body failed')
    const running = locks.run(name, {}, async () => {
      await others.forceRelease(name)
      throw failure
    })
    await expect(running).rejects.toBe(failure)
  })

  it('rejects with LockLostError, which carries the result, when the lease was lost during the body', async () => {
    const { locks, others } = subject
    const lossy = async (name: string) => {
      await others.forceRelease(name)
      const next = await others.acquire(name)
      return { result: 7, next }
    }
    for (const verb of ['run', 'tryRun'] as const) {
      const name = freshName()
      const outcome = await settled<unknown>(locks[verb](name, {}, () => lossy(name)))
      expect(outcome).toMatchObject({
        status: 'rejected',
        reason: { code: 'LOCK_LOST', lock: name, result: { result: 7 } },
      })
      expect((outcome as PromiseRejectedResult).reason).toBeInstanceOf(LockLostError)
      expect((await others.inspect(name))?.owner).toBe((outcome as PromiseRejectedResult).reason.result.next.owner)
      await others.forceRelease(name)
    }
  })

  it('rejects with LockLostError when the body outlasts a lease that is not renewed', async () => {
    const { locks } = subject
    const running = locks.run(freshName(), { ttl: '100ms', renew: false }, async (lease) => {
      while (!lease.signal.aborted) await sleep(10)
      return 'late'
    })
    await expect(running).rejects.toMatchObject({ code: 'LOCK_LOST', result: 'late' })
  })

  it('answers what the body answers when the body has released by itself', async () => {
    const { locks } = subject
    const value = await locks.run(freshName(), {}, async (lease) => {
      expect(await lease.release()).toBe(true)
      return 'done'
    })
    expect(value).toBe('done')
  })

  it.skipIf(subject.engine.engine === 'memory')(
    'answers what the body answers although the release fails, and tells of that',
    async () => {
      const { connected, others } = subject
      const tapped = tap(connected.adapter)
      const locks = createLocks(tapped.adapter, DEFAULTS)
      const events = recordEvents(locks)
      const name = freshName()
      const cause = new TypeError('broken')
      const value = await locks.run(name, {}, () => {
        tapped.intercept = () => Promise.reject(cause)
        return 'done'
      })
      expect(value).toBe('done')
      expect(events).toContainEqual({
        type: 'error',
        during: expect.stringContaining(name),
        cause: expect.objectContaining({ code: 'DATABASE', cause }),
      })
      tapped.intercept = null
      // It frees itself at its expiry.
      expect((await others.inspect(name))?.expiresInMs).toBeGreaterThan(0)
      await others.forceRelease(name)
      await locks.close()
    },
  )

  it('does not run the body when the lock stays busy', async () => {
    const { locks, others } = subject
    const name = freshName()
    const lease = await others.acquire(name)
    const body = () => expect.unreachable('the body must not run')
    expect(await locks.tryRun(name, {}, body)).toEqual({ ran: false })
    await expect(locks.run(name, { wait: 50 }, body)).rejects.toMatchObject({ code: 'LOCK_TIMEOUT', lock: name })
    await lease.release()
  })

  it('lets bodies run one after the other', async () => {
    const { locks, others } = subject
    const name = freshName()
    let running = 0
    let most = 0
    const tokens: bigint[] = []
    const body = async ({ token }: { token: bigint }) => {
      most = Math.max(most, ++running)
      tokens.push(token)
      await sleep(1)
      running--
    }
    await Promise.all(Array.from({ length: 10 }, (_, index) => [locks, others][index % 2]!.run(name, {}, body)))
    expect(most).toBe(1)
    expect(tokens).toHaveLength(10)
    expect(tokens).toEqual([...tokens].sort((a, b) => Number(a - b)))
  })
}
