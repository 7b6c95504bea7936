import { engines } from '../engines.ts'
import { severalWithinSuite } from './several.ts'

for (const engine of engines()) severalWithinSuite(engine)
