import { expect, it } from 'vitest'
import { createLocks, type Lease, type LeaseJson, LockLostError } from '../../src/index.ts'
import { freshName } from '../engines.ts'
import { connectionReset, DEFAULTS, eventOf, eventually, recordEvents, type Subject, settled, tap } from './harness.ts'

export function leaseSuite(subject: Subject): void {
  const withoutSql = subject.engine.engine === 'memory'

  it('is held, for at most its ttl, until it is released', async () => {
    const { locks } = subject
    const name = freshName()
    const lease = await locks.acquire(name, { ttl: '5s' })
    expect(lease.name).toBe(name)
    expect(lease.owner).toMatch(/^[0-9a-f]{32}$/)
    expect(lease.isHeld()).toBe(true)
    expect(lease.remainingMs()).toBeGreaterThan(0)
    expect(lease.remainingMs()).toBeLessThan(5000)
    expect(await lease.release()).toBe(true)
    expect(lease.isHeld()).toBe(false)
    expect(lease.remainingMs()).toBe(0)
    expect(lease.signal.aborted).toBe(false)
  })

  it('stops trusting itself before the database lets anybody else in', async () => {
    const { locks, others } = subject
    for (const ttl of ['3s', '30s'] as const) {
      const lease = await locks.acquire(freshName(), { ttl, renew: false })
      const trustedUntil = performance.now() + lease.remainingMs()
      await eventually(async () => {
        // The database looks at its clock after that, so the lease expires there no sooner than the sum.
        const askedAt = performance.now()
        const expiresInMs = (await others.inspect(lease.name))?.expiresInMs ?? 0
        expect(askedAt + expiresInMs).toBeGreaterThan(trustedUntil)
      })
      await lease.release()
    }
  })

  it('aborts its signal when it runs out without renewal', async () => {
    const { locks } = subject
    const events = recordEvents(locks)
    const lease = await locks.acquire(freshName(), { ttl: '300ms', renew: false })
    const { signal } = lease
    await aborted(signal)
    expect(lease.isHeld()).toBe(false)
    expect(lease.remainingMs()).toBe(0)
    expect(signal.reason).toBeInstanceOf(LockLostError)
    expect(signal.reason).toMatchObject({ code: 'LOCK_LOST', lock: lease.name })
    expect(await eventOf(events, 'lost', lease.name)).toMatchObject({
      name: lease.name,
      owner: lease.owner,
      token: lease.token,
    })
  })

  it('gives back what is left of a lease that is not trusted any more', async () => {
    const { locks, others } = subject
    const lease = await locks.acquire(freshName(), { ttl: '20s', maxHold: '20s', renew: false })
    const copy = await locks.restore(lease.toJSON(), { maxHold: '100ms', renew: false })
    await aborted(copy.signal)
    expect(await others.tryAcquire(lease.name)).toBeNull()
    expect(await copy.release()).toBe(false)
    const next = await others.acquire(lease.name, { wait: 0 })
    expect(await lease.release()).toBe(false)
    await next.release()
  })

  it('outlives its ttl while it is renewed', async () => {
    const { locks, others } = subject
    const events = recordEvents(locks)
    const lease = await locks.acquire(freshName(), { ttl: '2s' })
    const acquiredAt = performance.now()
    await eventually(() => expect(performance.now() - acquiredAt).toBeGreaterThan(2200))
    expect(lease.isHeld()).toBe(true)
    expect(lease.signal.aborted).toBe(false)
    expect(await others.tryAcquire(lease.name)).toBeNull()
    expect(await eventOf(events, 'renewed', lease.name)).toMatchObject({ name: lease.name, token: lease.token })
    expect(await lease.release()).toBe(true)
  })

  it('ends at maxHold although it is renewed, and extend cannot pass that', async () => {
    const { locks, others } = subject
    const events = recordEvents(locks)
    const lease = await locks.acquire(freshName(), { ttl: '2s', maxHold: '2500ms' })
    const { signal } = lease
    await eventOf(events, 'renewed', lease.name)
    expect(lease.remainingMs()).toBeLessThan(2500)
    await lease.extend('1h')
    expect(lease.remainingMs()).toBeLessThan(2500)
    expect((await others.inspect(lease.name))?.expiresInMs).toBeLessThan(2500)
    await aborted(signal)
    expect(signal.reason.message).toContain('maxHold')
    await expect(lease.extend('1s')).rejects.toMatchObject({ code: 'LOCK_LOST' })
    await (await others.acquire(lease.name)).release()
  })

  it('lasts no longer than maxHold, even when that is shorter than its ttl', async () => {
    const { locks, others } = subject
    const lease = await locks.acquire(freshName(), { ttl: '1h', maxHold: '400ms' })
    expect((await others.inspect(lease.name))?.expiresInMs ?? 0).toBeLessThanOrEqual(400)
    await aborted(lease.signal)
    await (await others.acquire(lease.name)).release()
  })

  it('lasts for the new ttl after extend', async () => {
    const { locks, others } = subject
    const lease = await locks.acquire(freshName(), { ttl: '5s', renew: false })
    await lease.extend('1m')
    expect(lease.remainingMs()).toBeGreaterThan(30_000)
    expect((await others.inspect(lease.name))?.expiresInMs).toBeGreaterThan(lease.remainingMs())
    expect(lease.toJSON().ttlMs).toBe(60_000)
    await lease.release()
  })

  it('is not made shorter by extend', async () => {
    const { locks, others } = subject
    const lease = await locks.acquire(freshName(), { ttl: '1h' })
    await lease.extend('1s')
    expect(lease.remainingMs()).toBeGreaterThan(60_000)
    expect((await others.inspect(lease.name))?.expiresInMs).toBeGreaterThan(60_000)
    await lease.release()
  })

  it('cannot be extended once it has run out, nor after it was released or taken away', async () => {
    const { locks, others } = subject
    const expired = await locks.acquire(freshName(), { ttl: '200ms', renew: false })
    const released = await locks.acquire(freshName())
    const evicted = await locks.acquire(freshName())
    await released.release()
    await others.forceRelease(evicted.name)
    await aborted(expired.signal)
    for (const lease of [expired, released, evicted]) {
      await expect(lease.extend('1m')).rejects.toBeInstanceOf(LockLostError)
      await expect(lease.extend('1m')).rejects.toMatchObject({ code: 'LOCK_LOST', lock: lease.name })
    }
    expect(evicted.signal.aborted).toBe(true)
  })

  it('notices that it was taken away when it is next renewed', async () => {
    const { locks, others } = subject
    const lease = await locks.acquire(freshName(), { ttl: '1s' })
    await others.forceRelease(lease.name)
    const next = await others.acquire(lease.name)
    await aborted(lease.signal)
    expect(lease.isHeld()).toBe(false)
    expect(next.isHeld()).toBe(true)
    await next.release()
  })

  it('answers true to each release of a lease that was held, and false to each of one that was lost', async () => {
    const { locks, others } = subject
    const lease = await locks.acquire(freshName())
    expect(await Promise.all([lease.release(), lease.release()])).toEqual([true, true])
    expect(await lease.release()).toBe(true)

    const evicted = await locks.acquire(freshName())
    await others.forceRelease(evicted.name)
    const next = await others.acquire(evicted.name)
    expect(await evicted.release()).toBe(false)
    expect(await evicted.release()).toBe(false)
    expect(next.isHeld()).toBe(true)
    expect(await others.inspect(evicted.name)).toMatchObject({ owner: next.owner, token: next.token })
    await next.release()
  })

  it.skipIf(withoutSql)('can be released again after a release that failed', async () => {
    const { connected, others } = subject
    const tapped = tap(connected.adapter)
    const locks = createLocks(tapped.adapter, DEFAULTS)
    const lease = await locks.acquire(freshName())
    tapped.intercept = () => Promise.reject(new TypeError('broken'))
    await expect(lease.release()).rejects.toMatchObject({ code: 'DATABASE' })
    expect(lease.isHeld()).toBe(false)
    expect(await others.tryAcquire(lease.name)).toBeNull()
    tapped.intercept = null
    expect(await lease.release()).toBe(true)
    await (await others.acquire(lease.name, { wait: 0 })).release()
    await locks.close()
  })

  // A file has no replies to lose.
  it.skipIf(withoutSql || subject.engine.engine === 'sqlite')(
    'answers true when the reply to its release was lost',
    async () => {
      const { connected, others } = subject
      const tapped = tap(connected.adapter)
      const locks = createLocks(tapped.adapter, DEFAULTS)
      const lease = await locks.acquire(freshName())
      let lost = 0
      tapped.intercept = async (forward) => {
        const answer = await forward()
        if (lost++ === 0) throw connectionReset()
        return answer
      }
      expect(await lease.release()).toBe(true)
      expect(lost).toBeGreaterThan(1)
      expect(await others.inspect(lease.name)).toBeNull()
      await locks.close()
    },
  )

  it('has defined outcomes when it is extended, renewed and released all at once', async () => {
    const { locks, others } = subject
    for (let round = 0; round < 10; round++) {
      const lease = await locks.acquire(freshName())
      const outcomes = await Promise.all(
        [
          () => lease.extend('40s'),
          () => lease.extend('50s'),
          () => lease.release(),
          () => lease.extend('60s'),
          () => lease.release(),
        ].map((call) => settled<unknown>(call())),
      )
      for (const outcome of outcomes) {
        if (outcome.status === 'rejected') expect(outcome.reason).toBeInstanceOf(LockLostError)
      }
      expect(outcomes[2]).toEqual({ status: 'fulfilled', value: true })
      expect(outcomes[4]).toEqual({ status: 'fulfilled', value: true })
      expect(lease.isHeld()).toBe(false)
      await (await others.acquire(lease.name, { wait: '1s' })).release()
    }
  })

  it('is released at the end of its scope by `await using`', async () => {
    const { locks, others } = subject
    const name = freshName()
    {
      await using lease = await locks.acquire(name)
      expect(lease.isHeld()).toBe(true)
      expect(await others.tryAcquire(name)).toBeNull()
    }
    await (await others.acquire(name, { wait: 0 })).release()
  })

  it('can be restored from JSON by another instance, which then renews it', async () => {
    const { locks, others } = subject
    const events = recordEvents(others)
    const lease = await locks.acquire(freshName(), { ttl: '2s', renew: false })
    const restored = await others.restore(JSON.parse(JSON.stringify(lease)))
    const { name, owner, token } = lease
    expect({ name: restored.name, owner: restored.owner, token: restored.token }).toEqual({ name, owner, token })
    expect(restored.isHeld()).toBe(true)
    expect(await eventOf(events, 'renewed', name)).toMatchObject({ name, owner, token })
    expect(await restored.release()).toBe(true)
    expect(await lease.release()).toBe(false)
    await (await locks.acquire(name, { wait: 0 })).release()
  })

  it('cannot be restored after it was released, ran out, or was taken over', async () => {
    const { locks, others } = subject
    const released = await locks.acquire(freshName())
    await released.release()
    const expired = await locks.acquire(freshName(), { ttl: '200ms', renew: false })
    const evicted = await locks.acquire(freshName())
    await others.forceRelease(evicted.name)
    const next = await others.acquire(evicted.name)
    await eventually(async () => expect(await others.inspect(expired.name)).toBeNull())
    for (const lease of [released, expired, evicted]) {
      await expect(others.restore(lease.toJSON())).rejects.toMatchObject({ code: 'LOCK_LOST', lock: lease.name })
    }
    expect(await locks.inspect(next.name)).toMatchObject({ owner: next.owner })
    await next.release()
  })

  it('cannot be renewed or released by a handle with another owner or token', async () => {
    const { locks, others } = subject
    const lease = await locks.acquire(freshName())
    const json = lease.toJSON()
    const foreign: LeaseJson[] = [
      { ...json, owner: json.owner.replace(/^./, (digit) => (digit === '0' ? '1' : '0')) },
      { ...json, owner: json.owner.slice(0, -1) + (json.owner.endsWith('0') ? '1' : '0') },
      { ...json, token: `${lease.token + 1n}` },
      { ...json, token: `${lease.token - 1n}` },
      { ...json, name: freshName() },
    ]
    for (const other of foreign) {
      await expect(others.restore(other)).rejects.toMatchObject({ code: 'LOCK_LOST' })
    }
    expect(await others.inspect(lease.name)).toMatchObject({ owner: lease.owner, token: lease.token })
    expect(await lease.release()).toBe(true)
  })

  it('is not released by the holder before', async () => {
    const { locks, others } = subject
    const name = freshName()
    const before = await locks.acquire(name)
    const copy = await others.restore(before.toJSON())
    await before.release()
    const next = await locks.acquire(name)
    // The copy does not know yet that it has been released elsewhere.
    expect(copy.isHeld()).toBe(true)
    expect(await copy.release()).toBe(false)
    expect(await others.inspect(name)).toMatchObject({ owner: next.owner, token: next.token })
    await next.release()
  })

  it('refuses what is not the JSON of a lease', async () => {
    const { locks } = subject
    const lease = await locks.acquire(freshName())
    const json = lease.toJSON()
    const garbage: unknown[] = [
      undefined,
      null,
      'text',
      42,
      {},
      [],
      { ...json, name: undefined },
      { ...json, name: '' },
      { ...json, owner: undefined },
      { ...json, owner: '' },
      { ...json, owner: "' or 1=1 --" },
      { ...json, token: undefined },
      { ...json, token: 42 },
      { ...json, token: lease.token },
      { ...json, token: '' },
      { ...json, token: '-1' },
      { ...json, token: '1e3' },
      { ...json, token: '99999999999999999999' },
      { ...json, ttlMs: undefined },
      { ...json, ttlMs: -1 },
      { ...json, ttlMs: 2 ** 31 },
      { ...json, ttlMs: Number.NaN },
    ]
    for (const each of garbage) {
      const outcome = await settled(locks.restore(each as LeaseJson))
      expect(outcome, String(each && JSON.stringify(each, bigintAsText))).toMatchObject({
        status: 'rejected',
        reason: { code: 'INVALID_ARGUMENT' },
      })
    }
    expect(await lease.release()).toBe(true)
  })
}

function bigintAsText(_: string, value: unknown): unknown {
  return typeof value === 'bigint' ? `${value}n` : value
}

function aborted(signal: Lease<unknown>['signal']): Promise<void> {
  return eventually(() => expect(signal.aborted).toBe(true))
}
