import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest'
import type { SqlAdapter, Statement } from '../../src/adapters/adapter.ts'
import { createLocks, type Locks } from '../../src/index.ts'
import { connectors } from '../adapters.ts'
import { freshName, type OpenEngine } from '../engines.ts'
import { routed } from '../statements.ts'
import { startProxy, type TcpProxy } from '../tcp-proxy.ts'
import { servedEngines } from './one-per-engine.ts'

const TIMES = 25
const MANY = Array.from({ length: 12 }, (_, index) => `one of many ${index}`)
/** Longer than any test waits. */
const TTL = '10m'

describe.each(servedEngines)('on $name', (engine) => {
  let open: OpenEngine
  let proxy: TcpProxy
  /** Uses the database through the proxy. */
  let locks: Locks<unknown>
  /** Uses it directly. */
  let others: Locks<unknown>
  let close: () => Promise<void>
  /** By which the requests are known that take a lock, a new one or one that was released, renew it, and release it. */
  const marks = { create: '', take: '', takeMany: '', renew: '', release: '', releaseMany: '' }

  beforeAll(async () => {
    open = await engine.open()
    proxy = await startProxy(open.url)
    const connected = await connectors[engine.connector](proxy.through(open.url) as never)
    locks = createLocks(connected.adapter, { ttl: TTL })
    others = await open.locks({ ttl: TTL })
    close = () => connected.close()

    // A prepared statement goes by its name, another by its text, of which the values are a part.
    const markOf = (statement?: Statement) =>
      (engine.engine === 'postgres' ? statement?.name : statement?.text.split('?')[0]) ?? ''
    const sent: Statement[] = []
    const adapter = connected.adapter as SqlAdapter<unknown>
    const listed = routed(adapter, (statement, forward) => {
      sent.push(statement)
      return forward()
    })
    await using watched = createLocks(listed)
    const first = await watched.acquire('watched')
    marks.create = markOf(sent.splice(0).at(-1))
    await first.extend('1m')
    marks.renew = markOf(sent.splice(0)[0])
    await first.release()
    marks.release = markOf(sent.splice(0)[0])
    await watched.acquire('watched')
    marks.take = markOf(sent.splice(0).at(-1))
    await together(MANY, async (name) => (await watched.acquire(name)).release())
    sent.splice(0)
    const leases = await together(MANY, (name) => watched.acquire(name))
    marks.takeMany = markOf(sent.splice(0).at(-1))
    await together(leases, (lease) => lease.release())
    marks.releaseMany = markOf(sent.splice(0)[0])
  })

  afterAll(async () => {
    await locks.close()
    await close()
    await proxy.close()
    await open.close()
  })

  const cutReplyTo = (verb: keyof typeof marks) =>
    proxy.cutReplies({ times: 1, after: (request) => request.includes(marks[verb]) })

  const rows = (name: string) =>
    open.connected.sql(`select owner, token from rowlock_locks where name = '${name}' and owner is not null`)

  /** What the first, unheard attempt left behind. */
  const holdThatNobodyHeardOf = async (name: string, cutsBefore: number) => {
    await vi.waitUntil(() => proxy.cuts > cutsBefore, { interval: 1 })
    const [row] = await rows(name)
    return { owner: String(row?.owner), token: BigInt(String(row?.token)) }
  }

  describe.each([
    ['a new lock', 'create'],
    ['a lock that had been released', 'take'],
  ] as const)('when the reply to an acquire of %s is lost', (_, verb) => {
    const freeName = async () => {
      const name = freshName()
      if (verb === 'take') await (await others.acquire(name)).release()
      return name
    }

    it('the attempt is repeated and answers with the token that the server had given, and leaves no ghost', async () => {
      for (let time = 0; time < TIMES; time++) {
        const name = await freeName()
        const cutsBefore = proxy.cuts
        cutReplyTo(verb)
        const acquiring = locks.acquire(name)
        const granted = await holdThatNobodyHeardOf(name, cutsBefore)
        const lease = await acquiring
        expect(lease).toMatchObject(granted)
        expect(await rows(name)).toHaveLength(1)
        expect(await others.tryAcquire(name)).toBe(null)
        expect(await lease.release()).toBe(true)
        expect(await others.tryAcquire(name)).not.toBe(null)
      }
    })

    it('the lock becomes free if the caller has given up meanwhile', async () => {
      for (let time = 0; time < TIMES / 5; time++) {
        const name = await freeName()
        const caller = new AbortController()
        const cutsBefore = proxy.cuts
        cutReplyTo(verb)
        const acquiring = locks.acquire(name, { signal: caller.signal }).catch((error: unknown) => error)
        await holdThatNobodyHeardOf(name, cutsBefore)
        caller.abort('not wanted any more')
        expect(await acquiring).toBe('not wanted any more')
        await (await others.acquire(name, { wait: '10s' })).release()
      }
    })

    it('a try answers with a lease, too', async () => {
      const name = await freeName()
      cutReplyTo(verb)
      const lease = await locks.tryAcquire(name)
      expect(await lease?.release()).toBe(true)
    })
  })

  it('those who were granted their locks together, unheard, get each its own, and can release them unheard', async () => {
    for (let time = 0; time < TIMES / 5; time++) {
      const cutsBefore = proxy.cuts
      cutReplyTo('takeMany')
      const acquiring = together(MANY, (name) => locks.acquire(name))
      const granted: { owner: string; token: bigint }[] = []
      for (const name of MANY) granted.push(await holdThatNobodyHeardOf(name, cutsBefore))
      const leases = await acquiring
      expect(leases).toMatchObject(granted)
      for (const name of MANY) expect(await others.tryAcquire(name)).toBe(null)

      cutReplyTo('releaseMany')
      expect(await together(leases, (lease) => lease.release())).toEqual(MANY.map(() => true))
      expect(proxy.cuts).toBe(cutsBefore + 2)
      for (const name of MANY) expect(await rows(name)).toEqual([])
    }
  })

  it('the lock becomes free if the caller gives up while the reply is on its way', async () => {
    const name = freshName()
    const caller = new AbortController()
    proxy.delay({ toClient: 300 })
    const acquiring = locks.acquire(name, { signal: caller.signal }).catch((error: unknown) => error)
    await vi.waitUntil(async () => (await rows(name)).length === 1, { interval: 5, timeout: 5000 })
    caller.abort('not wanted any more')
    expect(await acquiring).toBe('not wanted any more')
    await (await others.acquire(name, { wait: '10s' })).release()
    proxy.restore()
  })

  it('a release whose reply is lost answers true, and the lock is free', async () => {
    for (let time = 0; time < TIMES / 5; time++) {
      const name = freshName()
      const lease = await locks.acquire(name)
      const cutsBefore = proxy.cuts
      cutReplyTo('release')
      expect(await lease.release()).toBe(true)
      expect(proxy.cuts).toBe(cutsBefore + 1)
      expect(await others.tryAcquire(name)).not.toBe(null)
    }
  })

  it('a renewal whose reply is lost is an unknown, not a loss', async () => {
    const name = freshName()
    const lease = await locks.acquire(name, { ttl: '2s' })
    const types: string[] = []
    const stopListening = locks.on((event) => 'name' in event && event.name === name && types.push(event.type))
    cutReplyTo('renew')
    await vi.waitUntil(() => types.includes('unknown') && types.at(-1) === 'renewed', { timeout: 10_000 })
    expect(types).not.toContain('lost')
    expect(await lease.release()).toBe(true)
    stopListening()
  })
})

function together<T, R>(items: readonly T[], work: (item: T) => Promise<R>): Promise<R[]> {
  return Promise.all(items.map(work))
}
