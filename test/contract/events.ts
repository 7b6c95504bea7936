import { expect, it } from 'vitest'
import type { LockEvent } from '../../src/index.ts'
import { freshName } from '../engines.ts'
import { eventOf, recordEvents, type Subject } from './harness.ts'

export function eventsSuite(subject: Subject): void {
  it('tells what happens to a lease, from its acquire to its release', async () => {
    const { locks } = subject
    const events = recordEvents(locks)
    const name = freshName()
    const lease = await locks.acquire(name, { ttl: '2s' })
    const ofLease = { name, owner: lease.owner, token: lease.token, mode: 'exclusive' }
    await eventOf(events, 'renewed', name)
    await lease.release()
    expect(events.map((event) => event.type)).toEqual(['acquired', 'renewed', 'released'])
    expect(events[0]).toEqual({ type: 'acquired', waitedMs: expect.any(Number), ...ofLease })
    expect(events[1]).toEqual({ type: 'renewed', remainingMs: expect.any(Number), ...ofLease })
    expect(events[2]).toEqual({ type: 'released', ...ofLease })
  })

  it('tells of a lease that was lost just once, with the reason', async () => {
    const { locks, others } = subject
    const events = recordEvents(locks)
    const lease = await locks.acquire(freshName(), { ttl: '1s' })
    await others.forceRelease(lease.name)
    const { owner, token, name } = lease
    expect(await eventOf(events, 'lost', name)).toEqual({
      type: 'lost',
      name,
      owner,
      token,
      mode: 'exclusive',
      reason: expect.any(String),
    })
    expect(await lease.release()).toBe(false)
    expect(events.map((event) => event.type)).toEqual(['acquired', 'lost'])

    const found = await locks.acquire(freshName())
    await others.forceRelease(found.name)
    expect(await found.release()).toBe(false)
    expect(events.filter((event) => event.type === 'lost' && event.name === found.name)).toHaveLength(1)
  })

  it('tells of the locks of its own instance only', async () => {
    const { locks, others } = subject
    const events = recordEvents(locks)
    await (await others.acquire(freshName())).release()
    expect(events).toEqual([])
  })

  it('stops when the function that `on` returned is called', async () => {
    const { locks } = subject
    const [some, all]: LockEvent[][] = [[], []]
    const off = locks.on((event) => some!.push(event))
    locks.on((event) => all!.push(event))
    const lease = await locks.acquire(freshName())
    off()
    off()
    await lease.release()
    expect(some!.map((event) => event.type)).toEqual(['acquired'])
    expect(all!.map((event) => event.type)).toEqual(['acquired', 'released'])
  })
}
