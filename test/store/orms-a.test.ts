import { describe } from 'vitest'
import { ormEngines } from '../orms/connectors-a.ts'
import { textSuite } from './queue.ts'

for (const engine of ormEngines()) describe(engine.name, { timeout: 60_000 }, () => textSuite(engine))
