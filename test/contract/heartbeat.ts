import { expect, it } from 'vitest'
import { createLocks, LockLostError } from '../../src/index.ts'
import { freshName } from '../engines.ts'
import { connectionReset, DEFAULTS, eventOf, eventually, recordEvents, type Subject, tap } from './harness.ts'

const LEASES = 100

export function heartbeatSuite(subject: Subject): void {
  const withoutSql = subject.engine.engine === 'memory'

  it.skipIf(withoutSql)('renews the leases of a process together, in few statements', async () => {
    const { connected, others } = subject
    const tapped = tap(connected.adapter)
    const locks = createLocks(tapped.adapter, { ...DEFAULTS, ttl: '9s' })
    const renewed = new Set<string>()
    locks.on((event) => {
      if (event.type === 'renewed') renewed.add(event.name)
    })
    const prefix = freshName()
    const leases = await Promise.all(Array.from({ length: LEASES }, (_, index) => locks.acquire(`${prefix}:${index}`)))
    const sent = tapped.statements.length
    await eventually(() => expect(renewed.size).toBe(LEASES))
    expect(tapped.statements.length - sent).toBeLessThan(LEASES / 5)
    expect(leases.filter((lease) => lease.isHeld())).toHaveLength(LEASES)
    expect(await others.list({ prefix })).toHaveLength(LEASES)
    await locks.close()
  })

  it('renews leases of different ttls, names and instances, each in its time', async () => {
    const { locks, others } = subject
    const events = recordEvents(locks)
    const leases = await Promise.all([
      locks.acquire(freshName(), { ttl: '2s' }),
      locks.acquire(freshName(), { ttl: '2500ms' }),
      locks.acquire(freshName(), { ttl: '1m' }),
      locks.acquire(freshName(), { ttl: '2s', renew: false }),
    ])
    const foreign = await others.acquire(freshName(), { ttl: '2s' })
    const renewals = (index: number) =>
      events.filter((event) => event.type === 'renewed' && event.name === leases[index]!.name).length
    await eventually(() => {
      expect(renewals(0)).toBeGreaterThanOrEqual(3)
      expect(renewals(1)).toBeGreaterThanOrEqual(2)
      expect(leases[3]!.isHeld()).toBe(false)
    })
    expect(renewals(2)).toBe(0)
    expect(renewals(3)).toBe(0)
    expect([leases[0], leases[1], leases[2], foreign].map((lease) => lease!.isHeld())).toEqual([true, true, true, true])
    await Promise.all([...leases, foreign].map((lease) => lease.release()))
  })

  it.skipIf(withoutSql)('keeps a lease whose renewals fail, when one succeeds before the deadline', async () => {
    const { connected, others } = subject
    const tapped = tap(connected.adapter)
    const locks = createLocks(tapped.adapter, { ...DEFAULTS, ttl: '4s' })
    const events = recordEvents(locks)
    const lease = await locks.acquire(freshName())
    const cause = connectionReset()
    tapped.intercept = () => Promise.reject(cause)
    const { owner, token, name } = lease
    const unknown = await eventOf(events, 'unknown', name)
    expect(unknown).toMatchObject({ type: 'unknown', name, owner, token, cause: { code: 'DATABASE', cause } })
    const trusted = lease.remainingMs()
    await eventually(() => expect(events.filter((event) => event.type === 'unknown').length).toBeGreaterThan(1))
    // Nobody knows whether the expiry has moved, so trust goes on running out.
    expect(lease.isHeld()).toBe(true)
    expect(lease.remainingMs()).toBeLessThan(trusted)

    tapped.intercept = null
    await eventOf(events, 'renewed', name)
    expect(lease.isHeld()).toBe(true)
    expect(lease.signal.aborted).toBe(false)
    expect(lease.remainingMs()).toBeGreaterThan(trusted)
    expect(await others.inspect(name)).toMatchObject({ owner, token })
    expect(await lease.release()).toBe(true)
    await locks.close()
  })

  it.skipIf(withoutSql)('aborts the signal of a lease whose renewals fail until its deadline', async () => {
    const { connected, others } = subject
    const tapped = tap(connected.adapter)
    const locks = createLocks(tapped.adapter, { ...DEFAULTS, ttl: '900ms' })
    const events = recordEvents(locks)
    const lease = await locks.acquire(freshName())
    tapped.intercept = () => Promise.reject(connectionReset())
    await eventually(() => expect(lease.signal.aborted).toBe(true))
    expect(lease.signal.reason).toBeInstanceOf(LockLostError)
    expect(lease.isHeld()).toBe(false)
    expect(events.some((event) => event.type === 'unknown')).toBe(true)
    tapped.intercept = null
    await (await others.acquire(lease.name)).release()
    expect(await lease.release()).toBe(false)
    await locks.close()
  })

  it.skipIf(withoutSql)('does not wait for a renewal that gets no answer', async () => {
    const { connected } = subject
    const tapped = tap(connected.adapter)
    const locks = createLocks(tapped.adapter, { ...DEFAULTS, ttl: '3s' })
    const events = recordEvents(locks)
    const lease = await locks.acquire(freshName())
    let swallowed = 0
    tapped.intercept = (forward) => (swallowed++ === 0 ? new Promise(() => undefined) : forward())
    await eventOf(events, 'unknown', lease.name)
    await eventOf(events, 'renewed', lease.name)
    expect(lease.isHeld()).toBe(true)
    expect(await lease.release()).toBe(true)
    await locks.close()
  })
}
