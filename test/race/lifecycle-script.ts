import pg from 'pg'
import { fromPg } from '../../src/adapters/pg.ts'
import { type Adapter, createLocks, type LockOptions } from '../../src/index.ts'
import { connectors } from '../adapters.ts'

/** A process as applications are, that says how far it is. Started with a scenario, a connector, a URL and a lock's name. */
const [scenario, connector, url, name] = process.argv.slice(2) as [
  keyof typeof scenarios,
  keyof typeof connectors,
  string,
  string,
]

const scenarios = {
  /** Works until it is told to end, and then closes what it has opened, and nothing more. */
  async 'close on SIGTERM'() {
    const { locks, end } = await open()
    const work = setInterval(() => undefined, 1000)
    process.on('SIGTERM', async () => {
      clearInterval(work)
      await locks.close()
      await end()
    })
    await locks.acquire(name, { ttl: '1m' })
    console.log('held')
  },

  async 'die on SIGTERM'() {
    const { locks } = await open()
    setInterval(() => undefined, 1000)
    await locks.acquire(name, { ttl: '5s' })
    console.log('held')
  },

  async 'forget the lease'() {
    await forget({ ttl: '1500ms' })
  },

  async 'forget the lease that lives by a session'() {
    await forget({ ttl: '1m', takeover: 'session' })
  },

  /** Says nothing to rowlock, whose renewals and waits are under way. */
  async 'end the pool'() {
    const { locks, end } = await open()
    const renewed = new Promise<void>((resolve) => {
      locks.on((event) => event.type === 'renewed' && resolve())
    })
    await locks.acquire(name, { ttl: '1s' })
    locks.acquire(`${name}:other`, { wait: '2s' }).catch(() => undefined)
    await renewed
    await end()
    console.log('the pool has ended')
  },

  /** Has been through everything that could leave something behind. */
  async close() {
    const { locks, end } = await open()
    const caller = new AbortController()
    locks.on(() => undefined)
    await locks.acquire(name, { ttl: '1m', signal: caller.signal })
    await locks.acquire(name, { wait: 100 }).catch(() => undefined)
    await locks.run(`${name}:other`, {}, () => undefined)
    const waiting = locks.acquire(name, { signal: caller.signal }).catch((error: { code: string }) => error.code)
    await new Promise((resolve) => setTimeout(resolve, 100))
    await locks.close()
    console.log(`the waiter got ${await waiting}`)
    await end()
    console.log('closed')
  },
}

await scenarios[scenario]()

async function forget(options: LockOptions): Promise<void> {
  const { locks, end } = await open()
  await locks.acquire(name, options)
  console.log('held')
  // Its idle connections would keep the process alive, whatever rowlock does.
  if (connector === 'mysql2') await end()
}

async function open() {
  if (connector === 'pg') {
    const pool = new pg.Pool({ connectionString: url, allowExitOnIdle: true })
    return { locks: createLocks(fromPg(pool) as Adapter<unknown>), end: () => pool.end() }
  }
  const connected = await connectors[connector](url as never)
  return { locks: createLocks(connected.adapter), end: () => connected.close() }
}
