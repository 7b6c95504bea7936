import { overlapsSuite } from '../within/overlaps.ts'
import { ormEngines } from './connectors-a.ts'

for (const engine of ormEngines()) {
  if (engine.server !== undefined) overlapsSuite(engine, { runs: 5, isolations: ['read committed'] })
}
