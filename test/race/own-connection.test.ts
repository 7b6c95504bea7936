import { afterAll, describe, expect, it } from 'vitest'
import { engines, freshName } from '../engines.ts'
import { ownConnectionSuite } from './own-connection.ts'
import { endProcesses, startScript } from './processes.ts'

afterAll(endProcesses)

const served = engines().filter(({ server }) => server !== undefined)

// Kysely lends one of its pool's.
for (const engine of served) ownConnectionSuite(engine, { beside: !engine.connector.startsWith('kysely') })

// What keeps a process alive is the driver, so one server of each kind will do.
const drivers = served.filter(({ server }) => server?.name !== 'postgres15' && server?.name !== 'mariadb')

describe.each(drivers)('with $name', { timeout: 90_000 }, (engine) => {
  it('a process ends by itself that ends its pool while it holds a lease and waits for another', async () => {
    const open = await engine.open()
    const others = await open.locks()
    const name = freshName()
    await others.acquire(`${name}:other`, { ttl: '5m' })
    const script = startScript('lifecycle-script.ts', 'end the pool', engine.connector, open.url, name)
    await script.untilLine('the pool has ended')
    expect(await script.ended).toBe(0)
    expect(script.errors()).toBe('')
    await open.close()
  })
})
